"""Random concat_fusion calls: shapes that broadcast in any way, every option, any layout."""

from __future__ import annotations

import math

from hypothesis import strategies as st

from tests.fusion.naive import ACTIVATIONS, Case
from tests.layouts import LAYOUTS

sizes = st.one_of(st.integers(1, 9), st.sampled_from([15, 16, 17, 31, 33, 64, 65]))
widths = st.one_of(st.integers(0, 40), st.sampled_from([63, 64, 65, 127, 129, 255, 257, 513]))
outs = st.one_of(st.integers(1, 40), st.sampled_from([63, 64, 65, 129, 300]))
layouts = st.one_of(st.just("contiguous"), st.sampled_from(LAYOUTS))
MAX_PRODUCT = 2_000_000
"""Rows times features times outputs: above, a check takes too long."""


@st.composite
def broadcast(draw: st.DrawFn, shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape that broadcasts to this one: some axes are 1, some leading ones are left out."""
    shape = tuple(n if draw(st.integers(0, 2)) else 1 for n in shape)
    return shape[draw(st.integers(0, len(shape))) :]


@st.composite
def optional_broadcast(draw: st.DrawFn, shape: tuple[int, ...]) -> tuple[int, ...] | None:
    return draw(st.one_of(st.none(), st.just(shape), broadcast(shape)))


@st.composite
def fusion_cases(draw: st.DrawFn) -> Case:
    """Any call that is not too slow to check."""
    axes = draw(st.integers(0, 3))
    rows = tuple(draw(st.lists(sizes, min_size=axes, max_size=axes)))
    if axes and draw(st.integers(0, 30)) == 0:
        rows = (0, *rows[1:])
    out = draw(outs)
    count = draw(st.integers(1, 5))
    features = draw(st.lists(widths, min_size=count, max_size=count))
    while math.prod(rows) * sum(features) * out > MAX_PRODUCT and max(rows) > 1:
        rows = tuple((n + 1) // 2 for n in rows)
    whole = draw(st.integers(0, 3)) > 0  # else the joint shape may be nobody's own
    sources = [rows if whole and i == 0 else draw(st.one_of(st.just(rows), broadcast(rows))) for i in range(count)]
    if not whole and all(n == 1 for shape in sources for n in shape):
        sources[0] = rows
    joint = _joint(sources)
    norm = draw(st.sampled_from([None, None, "layer", "layer", "rms"])) if sum(features) else None
    return Case(
        inputs=tuple((*shape, width) for shape, width in zip(sources, features)),
        out=out,
        bias=draw(st.booleans()),
        norm=norm,
        activation=draw(st.sampled_from(list(ACTIVATIONS))),
        gate=draw(optional_broadcast((*joint, out))),
        residual=draw(optional_broadcast((*joint, out))),
        affine=draw(st.integers(0, 3)) > 0,
        wide=draw(st.booleans()),
        layouts=tuple(draw(st.lists(layouts, min_size=1, max_size=count))),
        other_layout=draw(layouts),
        size=draw(st.sampled_from([1.0, 1.0, 1.0, 0.01, 4.0])),
        offset=draw(st.sampled_from([0.0, 0.0, 0.0, 3.0])),
    )


def _joint(shapes: list[tuple[int, ...]]) -> tuple[int, ...]:
    axes = max(map(len, shapes))
    padded = [(1,) * (axes - len(shape)) + shape for shape in shapes]
    return tuple(next((n for n in column if n != 1), 1) for column in zip(*padded))
