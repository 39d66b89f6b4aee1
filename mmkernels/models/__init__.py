"""The reference multimodal model: OpenMoji pictures and their captions, from preprocessing to report.

The stages stand in rooms of their own:

- preprocessing: `openmoji` (render, cache), `split` (by concept), `augment`, `tokenizer`, `captions`, `grids`
- parts: `config` gives their sizes, `transformer` is the layer under all of them
- modality embedding: `towers`
- cross-modal interaction: `interaction`
- concat-fusion: `fusion`
- task heads: `heads`; `model` joins the rooms, `objectives` says what they learn

and around them `training` (over `loop`), `checkpoint` (over `saved_run`), `evaluate`, `comparison`, `attention_maps`,
`report` and `demo`. `presets` holds sizes and recipes, `zoo` other systems of the same parts, `sources` other data.
What the demo's data needs beyond torch is in the extra `mmkernels[demo]`.
"""
