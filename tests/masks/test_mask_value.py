"""A mask as a value: pytree, device, repr, what dense masks are recognised as, caching, wrong arguments."""

from __future__ import annotations

import pytest
import torch
from torch.utils import _pytree as pytree

from mmkernels import mask_resolve
from mmkernels.mask import Mask, resolve
from tests.masks import brute

CPU = torch.device("cpu")


def examples() -> dict[str, Mask]:
    dense = torch.rand(2, 1, 3, 4, generator=torch.Generator().manual_seed(0)) > 0.5
    return {
        "causal": Mask.causal("bottom_right", empty_rows="unmask"),
        "window": Mask.window(2, None),
        "key_lengths": Mask.key_lengths(torch.tensor([1, 3])),
        "key_lengths_list": Mask.key_lengths([torch.tensor([1, 3])]),
        "packed": Mask.packed(torch.tensor([0, 1, 3]), torch.tensor([0, 2, 4]), causal=True),
        "prefix": Mask.prefix(torch.tensor([1, 2])),
        "media": Mask.media(torch.tensor([[0, 1, -1]]), 2),
        "media_range": Mask.media(torch.tensor([[[0, 1], [1, 1], [-1, -1]]]), 2),
        "intervals": Mask.intervals(0, torch.tensor([[[1, 2, 3]]])),
        "dense": Mask.dense(dense),
        "segments": Mask.segments([Mask.dense(dense) & Mask.causal()]),
        "both": Mask.causal() & Mask.key_lengths(torch.tensor([1, 3])),
    }


@pytest.mark.parametrize("name", examples())
class TestPytree:
    def test_round_trip(self, name):
        mask = examples()[name]
        leaves, spec = pytree.tree_flatten(mask)
        assert all(isinstance(leaf, torch.Tensor) for leaf in leaves)
        back = pytree.tree_unflatten(leaves, spec)
        assert back.empty_rows == mask.empty_rows
        assert torch.equal(back.to_dense(2, 2, 3, 4), mask.to_dense(2, 2, 3, 4))
        assert pytree.tree_flatten(back)[1] == spec

    def test_context_survives_serialisation(self, name):
        leaves, spec = pytree.tree_flatten(examples()[name])
        back = pytree.tree_unflatten(leaves, pytree.treespec_loads(pytree.treespec_dumps(spec)))
        assert torch.equal(back.to_dense(2, 2, 3, 4), examples()[name].to_dense(2, 2, 3, 4))

    def test_exports(self, name):
        class Model(torch.nn.Module):
            def forward(self, mask: Mask) -> torch.Tensor:
                return mask.to_dense(2, 2, 3, 4, device="cpu").float()

        mask = examples()[name]
        program = torch.export.export(Model(), (mask,))
        assert torch.equal(program.module()(mask), mask.to_dense(2, 2, 3, 4).float())

    def test_moves(self, name):
        mask = examples()[name]
        moved = mask.to("meta")
        assert all(leaf.device.type == "meta" for leaf in pytree.tree_leaves(moved))
        assert mask.device in (None, CPU)

    def test_repr_names_its_kind(self, name):
        mask = examples()[name]
        assert mask.parts[0].kind in repr(mask)
        assert "tensor(" not in repr(mask)


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_in_one_graph(dynamic):
    def seen(q_len: int, lengths: torch.Tensor, bits: torch.Tensor) -> torch.Tensor:
        mask = Mask.causal() & Mask.key_lengths(lengths) & Mask.dense(bits)
        return mask.to_dense(lengths.shape[0], 2, q_len, bits.shape[-1])

    compiled = torch.compile(seen, backend="aot_eager", fullgraph=True, dynamic=dynamic)
    for batch, q_len, k_len in [(2, 5, 7), (3, 4, 6)]:
        bits = torch.rand(batch, 1, 1, k_len) > 0.3
        args = (q_len, torch.arange(batch) + 3, bits)
        assert torch.equal(compiled(*args), seen(*args))


def test_mask_from_outside_compiles():
    mask = Mask.segments([Mask.window(1, 1), Mask.key_lengths(torch.tensor([2, 0]))], empty_rows="unmask")
    compiled = torch.compile(lambda x: x * mask.to_dense(2, 1, 3, [2, 2]), backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(torch.ones(())), mask.to_dense(2, 1, 3, [2, 2]).float())


class TestDenseRecognition:
    def kind(self, rows: list[list[int]]) -> str:
        return Mask.dense(torch.tensor(rows, dtype=torch.bool)).kind

    def test_kinds(self):
        assert self.kind([[1, 1, 1], [1, 1, 1]]) == "full"
        assert self.kind([[1, 1, 0], [0, 1, 1]]) == "intervals"
        assert self.kind([[0, 0, 0], [0, 1, 0]]) == "intervals"
        assert self.kind([[0, 0, 0], [0, 0, 0]]) == "intervals"
        assert self.kind([[1, 0, 1], [0, 1, 1]]) == "dense"

    def test_gap_on_a_segment_border_is_intervals_there(self):
        """[text|pad][image|pad] in one bool tensor."""
        mask = Mask.dense(torch.tensor([1, 1, 0, 1, 0], dtype=torch.bool))
        assert mask.kind == "dense"
        found = resolve(mask, batch=1, heads=1, q_len=2, k_lens=[3, 2], device=CPU)
        assert found.visible is None
        assert (found.start.flatten().tolist(), found.stop.flatten().tolist()) == ([0, 0], [2, 1])

    def test_full_is_no_mask(self):
        found = resolve(
            Mask.dense(torch.ones(2, 3, dtype=torch.bool)), batch=1, heads=1, q_len=2, k_lens=[3], device=CPU
        )
        assert found.start is None and found.visible is None

    def test_recognised_once(self, monkeypatch):
        mask = Mask.dense(torch.eye(4, dtype=torch.bool))
        assert mask.kind == "intervals"
        monkeypatch.setattr("mmkernels.mask_dense.hull", lambda tensor: pytest.fail("looked twice"))
        found = resolve(mask, batch=1, heads=1, q_len=4, k_lens=[4], device=CPU)
        assert found.start.flatten().tolist() == [0, 1, 2, 3]

    def test_writing_to_the_tensor_is_noticed(self):
        bits = torch.eye(3, dtype=torch.bool)
        mask = Mask.dense(bits)
        assert mask.kind == "intervals"
        bits[0, 2] = True
        assert mask.kind == "dense"
        assert torch.equal(mask.to_dense(1, 1, 3, 3)[0, 0], bits)

    def test_inference_tensors(self):
        with torch.inference_mode():
            bits = torch.eye(3, dtype=torch.bool)
        assert Mask.dense(bits).kind == "intervals"

    def test_other_devices_decide_nothing_on_the_host(self):
        mask = Mask.dense(torch.ones(2, 1, 3, 4, dtype=torch.bool, device="meta"))
        assert mask.kind == "dense"
        found = resolve(mask, batch=2, heads=1, q_len=3, k_lens=[4], device=torch.device("meta"))
        assert found.start.shape == (1, 2, 1, 3)
        assert found.interval_exact.shape == () and found.visible is not None

    def test_vmap_decides_nothing_on_the_host(self):
        bits = torch.rand(3, 4, 5) > 0.5
        mapped = torch.vmap(lambda one: Mask.dense(one).to_dense(1, 1, 4, 5)[0, 0])(bits)
        assert torch.equal(mapped, bits)


class TestCache:
    def resolve(self, mask: Mask, q_len: int = 5) -> mask_resolve.ResolvedMask:
        return resolve(mask, batch=1, heads=1, q_len=q_len, k_lens=[7], device=CPU)

    def test_equal_masks_share_their_answer(self):
        assert self.resolve(Mask.causal()) is self.resolve(Mask.causal())
        assert self.resolve(Mask.causal()) is self.resolve(Mask.window(None, 0))

    def test_different_masks_do_not(self):
        answers = [
            Mask.causal(), Mask.causal("bottom_right"), Mask.window(0, 0), Mask.window(1, 0), Mask.window(0, 1),
            Mask.causal(empty_rows="unmask"), Mask.causal() & Mask.window(1, 0),
        ]  # fmt: skip
        assert len({id(self.resolve(mask)) for mask in answers}) == len(answers)
        assert self.resolve(Mask.causal()) is not self.resolve(Mask.causal(), q_len=6)

    def test_holds_no_fake_tensor(self):
        from torch._subclasses import FakeTensorMode

        mask_resolve._cache.clear()
        with FakeTensorMode():
            fake = self.resolve(Mask.causal())
            assert type(fake.stop) is not torch.Tensor
        assert not mask_resolve._cache
        assert type(self.resolve(Mask.causal()).stop) is torch.Tensor

    def test_holds_no_functorch_tensor(self):
        mask_resolve._cache.clear()

        def loss(x: torch.Tensor) -> torch.Tensor:
            return (self.resolve(Mask.causal()).stop * x).sum()

        torch.func.grad(loss)(torch.ones(()))
        torch.vmap(loss)(torch.ones(2))
        assert not mask_resolve._cache

    def test_windows_are_shared_by_mixed_masks(self):
        mask_resolve._cache.clear()
        mixed = Mask.key_lengths(torch.tensor([6])) & Mask.causal("bottom_right")
        first, second = self.resolve(mixed), self.resolve(mixed)
        assert len(mask_resolve._cache) == 1
        assert torch.equal(first.stop, second.stop) and first.stop.flatten().tolist() == [3, 4, 5, 6, 6]

    def test_holds_no_inference_tensor(self):
        mask_resolve._cache.clear()
        with torch.inference_mode():
            self.resolve(Mask.causal())
        assert not self.resolve(Mask.causal()).stop.is_inference()

    def test_is_bounded(self):
        for q_len in range(3 * mask_resolve.CACHE_SIZE):
            self.resolve(Mask.causal(), q_len)
        assert len(mask_resolve._cache) <= mask_resolve.CACHE_SIZE


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.uint16, torch.int32])
def test_integers_of_every_width_mean_the_same(dtype):
    """Segments of which one is longer than a byte can say, the other behind where a byte would wrap around."""

    def masks(dtype: torch.dtype) -> list[Mask]:
        two, ends = torch.tensor([2, 9], dtype=dtype), torch.tensor([0, 2, 9], dtype=dtype)
        media = torch.tensor([[0, 1, 1], [1, 0, 0]], dtype=dtype)
        return [Mask.key_lengths(two), Mask.prefix(two), Mask.intervals(two[:1], two[1:]), Mask.media(media, 120),
                Mask.packed(ends, ends, causal=True, align="bottom_right")]  # fmt: skip

    for narrow, wide in zip(masks(dtype), masks(torch.int64), strict=True):
        assert torch.equal(narrow.to_dense(2, 1, 3, [7, 300]), wide.to_dense(2, 1, 3, [7, 300]))


INTS = torch.tensor([1, 2])
WRONG = {
    "align": (ValueError, lambda: Mask.causal("left")),
    "left": (ValueError, lambda: Mask.window(-1, 0)),
    "right": (TypeError, lambda: Mask.window(0, 1.5)),
    "lengths": (TypeError, lambda: Mask.key_lengths(torch.tensor([1.0]))),
    "lengths ": (TypeError, lambda: Mask.key_lengths([1, 2])),
    "lengths  ": (ValueError, lambda: Mask.key_lengths(torch.ones(2, 2, dtype=torch.int32))),
    "cu_seqlens_k": (ValueError, lambda: Mask.packed(INTS, torch.tensor([0]))),
    "cu_seqlens_q": (TypeError, lambda: Mask.packed([0, 1], INTS)),
    "prefix_lengths": (TypeError, lambda: Mask.prefix(3)),
    "media_of_query": (ValueError, lambda: Mask.media(INTS, 2)),
    "media_of_query ": (ValueError, lambda: Mask.media(torch.zeros(1, 2, 3, dtype=torch.int64), 2)),
    "tokens_per_media": (ValueError, lambda: Mask.media(INTS[None], -1)),
    "start": (TypeError, lambda: Mask.intervals(0, 3)),
    "stop": (TypeError, lambda: Mask.intervals(INTS, torch.tensor([True, False]))),
    "mask": (TypeError, lambda: Mask.dense(torch.zeros(2, 2))),
    "mask ": (ValueError, lambda: Mask.dense(torch.zeros(1, 1, 1, 2, 2, dtype=torch.bool))),
    "mask  ": (TypeError, lambda: Mask.dense(torch.ones(2, 2, dtype=torch.bool).to_sparse())),
    "masks": (TypeError, lambda: Mask.segments(Mask.causal())),
    "masks ": (TypeError, lambda: Mask.segments([torch.zeros(1)])),
    "empty_rows": (ValueError, lambda: Mask.causal(empty_rows="none")),
    "empty_rows ": (ValueError, lambda: Mask.causal(empty_rows=["zero"])),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_constructor_arguments(name):
    kind, make = WRONG[name]
    with pytest.raises(kind, match=name.strip()):
        make()


@pytest.mark.parametrize(
    "mask, k_lens, says",
    [
        (Mask.key_lengths(torch.tensor([1, 2, 3])), [4], "lengths"),
        (Mask.key_lengths([torch.tensor([1]), None]), [4], "2 segments"),
        (Mask.prefix(torch.tensor([1, 2, 3])), [4], "prefix_lengths"),
        (Mask.media(torch.zeros(2, 4, dtype=torch.int64), 1), [4], "media_of_query"),
        (Mask.intervals(torch.zeros(4, dtype=torch.int64), torch.ones(4, dtype=torch.int64)), [4], "start"),
        (Mask.intervals(0, torch.ones(2, 1, 1, 1, dtype=torch.int64)), [4], "stop"),
        (Mask.dense(torch.ones(3, 5, dtype=torch.bool)), [4], "mask has shape"),
        (Mask.segments([None]), [2, 2], "2 segments"),
        (Mask.key_lengths(torch.tensor([1, 2], device="meta")), [4], "mask is on meta"),
    ],
)
def test_masks_that_do_not_fit_the_call(mask, k_lens, says):
    with pytest.raises(ValueError, match=says):
        resolve(mask, batch=2, heads=1, q_len=3, k_lens=k_lens, device=CPU)


def test_empty_call():
    shape = brute.Shape(0, 2, 0, [0])
    for mask in (Mask.causal("bottom_right"), Mask.dense(torch.ones(0, 0, dtype=torch.bool))):
        assert mask.to_dense(*shape).shape == (0, 2, 0, 0)
