"""The model zoo: systems assembled from the parts of the reference model, their objectives, training and evaluation.

- parts: `config` (sizes), `transformer`, `towers`, `interaction`, `fusion` and `heads` of `mmkernels.models`; `decoder`
- `system` joins them by a configuration; `presets` of `mmkernels.models` holds a page of configuration for each
- `task` is what a run is about: pictures, captions, labels, split; the one place where data comes in
- `objectives`: one page each: what it draws, the head it adds, what it minimises, how it is judged
- `training`, `checkpoint`, `log`, `evaluate`, `commands`
"""
