"""OpenMoji's pictures, the data of the reference task, as a `PictureSet`."""

from __future__ import annotations

import torch.nn.functional as F

from mmkernels.models.captions import full_caption
from mmkernels.models.corpus import load_corpus
from mmkernels.models.openmoji import ATTRIBUTION, RENDERED_SIZE, premultiplied
from mmkernels.models.sources.picture_set import PictureSet, check_memory, finished
from mmkernels.models.split import concept


def load_openmoji(*, size: int, limit: int | None) -> PictureSet:
    """Every emoji with its name, and its name, keywords and subgroup, as captions; rows and split are the corpus's.

    Raises:
        ValueError: the data packages are not installed.
    """
    corpus = load_corpus(limit)
    rows, notes = corpus.rows, []
    check_memory(len(rows), size)
    pictures = premultiplied(corpus.rgba, min(size, RENDERED_SIZE))
    if size > RENDERED_SIZE:
        pictures = F.interpolate(pictures, (size, size), mode="bilinear", align_corners=False)
        notes.append(f"pictures are rendered with {RENDERED_SIZE} pixels a side and enlarged to {size}")
    return finished(
        pictures,
        [tuple(dict.fromkeys((row.name, full_caption(row)))) for row in rows],
        [row.subgroup for row in rows],
        [concept(rows[g]) for g in corpus.split.group],
        corpus.mirror,
        corpus.split,
        notes,
        ATTRIBUTION,
    )
