"""Smaller systems: int8 weights, and a smaller student of a trained teacher.

- `int8`: weights of linear layers in int8, by torchao; `deployed`: a trained system without what only training needs
- `smaller`: a configuration with fewer and narrower layers; `study`: size, speed and accuracy before and after
- `commands`: `mmkernels compress`

Distillation itself is a part of any recipe: `mmkernels.models.regimes`, `zoo.teacher`, `zoo.objectives.distilled`.
"""
