"""Few labels, many pictures: what pseudo-labels and pre-training without labels add to the labelled part alone.

- `few_labels`: a task of which few pictures keep their labels; `study`: the arms of the comparison, with seeds
- `commands`: `mmkernels semi`

The objective itself is `zoo.objectives.pseudo_labels`, pre-training is `zoo.objectives.masked_patches`.
"""
