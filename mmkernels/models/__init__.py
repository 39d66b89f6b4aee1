"""The reference multimodal model: OpenMoji pictures and their captions, from preprocessing to report.

The stages stand in rooms of their own:

- preprocessing: `openmoji` (render, cache), `split` (by concept), `augment`, `tokenizer`, `captions`, `grids`
- modality embedding: `towers`
- cross-modal interaction: `interaction`
- concat-fusion: `fusion`
- task heads: `heads`; `model` joins the rooms, `objectives` says what they learn

and around them `training`, `checkpoint`, `evaluate`, `comparison`, `attention_maps`, `report` and `demo`.
What the demo's data needs beyond torch is in the extra `mmkernels[demo]`.
"""
