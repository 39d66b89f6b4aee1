"""Every row of transformers' and torch's models; diffusers', timm's and open_clip's have tests of their own."""

from __future__ import annotations

from tests.integrations import cross_rows, image_rows, named_rows, stream_rows, torch_rows, vlm_rows

TABLES = (named_rows, stream_rows, cross_rows, vlm_rows, image_rows, torch_rows)
ROWS = [row for table in TABLES for row in table.ROWS]
BY_NAME = {row.name: row for row in ROWS}

SAMPLE = [BY_NAME[name] for name in ("CLIP, patched", "FLAN-T5", "VisualBERT", "nn.TransformerEncoder")]
"""One of each way to be served: the interface, a stand-in over it, a stand-in, torch's modules."""
