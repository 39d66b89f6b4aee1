"""Random contrastive_loss calls: any sizes, positives, options and layouts."""

from __future__ import annotations

from hypothesis import strategies as st

from tests.contrastive.naive import KINDS, POSITIVES, Case
from tests.layouts import LAYOUTS

lengths = st.one_of(st.integers(1, 40), st.sampled_from([63, 64, 65, 127, 129, 255, 256, 257, 300]))
dims = st.one_of(st.integers(1, 40), st.sampled_from([63, 64, 65, 129, 257]))
layouts = st.one_of(st.just("contiguous"), st.sampled_from(LAYOUTS))


@st.composite
def contrastive_cases(draw: st.DrawFn) -> Case:
    """Any call that is not too slow to check."""
    kind = draw(st.sampled_from(KINDS))
    positives = draw(st.sampled_from(POSITIVES))
    reduction = draw(st.sampled_from(["mean", "sum", "none"]))
    rows = draw(lengths)
    square = positives == "pairs" or (kind == "softmax" and reduction == "none")
    return Case(
        rows=rows,
        columns=rows if square else draw(lengths),
        width=draw(dims),
        kind=kind,
        positives=positives,
        smoothing=draw(st.sampled_from([0.0, 0.0, 0.1, 0.5, 1.0])),
        reduction=reduction,
        scale=draw(st.sampled_from([14.3, 14.3, 1.0, 0.0, -5.0, 100.0])),
        bias=draw(st.sampled_from([None, 0.0, -10.0, 2.5])),
        length=draw(st.sampled_from([1.0, 1.0, 0.01, 3.0])),
        layouts=(draw(layouts), draw(layouts)),
        targets_layout=draw(st.sampled_from(["contiguous", "contiguous", "transposed", "strided", "expanded"])),
    )
