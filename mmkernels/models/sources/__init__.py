"""Where pictures, clips and sounds with their texts come from. Every source of pictures gives a `PictureSet`.

- `openmoji`: the pictures of the reference task
- `tuxpaint`: the stamps of Tux Paint with their captions in many languages, where they are installed
- `folder`, `table`, `images`: the user's own pictures with a CSV or JSONL of captions
- `clips`: short videos, synthesised from the pictures of any source
- `sounds`: synthesised sounds and what they are called
"""

from mmkernels.models.sources.loading import NAMES, load
from mmkernels.models.sources.picture_set import PictureSet

__all__ = ["NAMES", "PictureSet", "load"]
