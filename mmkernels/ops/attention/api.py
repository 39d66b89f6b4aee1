"""Attention's public functions: plain calls take the short way (``plain``), any other is lowered (``front``)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from mmkernels import backend as backends
from mmkernels.mask import Mask
from mmkernels.ops.attention import check, front, joint, plain
from mmkernels.ops.attention.front import Bias
from mmkernels.ops.attention.lowered import problem_of
from mmkernels.ops.attention.sdpa import scaled_dot_product_attention

__all__ = ["attention", "attention_varlen", "explain", "joint_attention", "scaled_dot_product_attention"]


def attention(
    query: Tensor,
    key: Tensor | Sequence[Tensor],
    value: Tensor | Sequence[Tensor],
    *,
    mask: Mask | Tensor | None = None,
    bias: Bias | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    dropout_p: float = 0.0,
    seed: int | Tensor | None = None,
    return_lse: bool = False,
    backend: str | None = None,
    dropout_offsets: Sequence[int] | None = None,
) -> Any:
    """Scaled dot-product attention over one key-value tensor, or over a list of segments without building their cat.

    Equivalent torch code, softmax in fp32::

        key, value = torch.cat(keys, 2), torch.cat(values, 2)          # where lists were given
        key, value = (x.repeat_interleave(Hq // Hk, 1) for x in (key, value))
        logits = scale * query @ key.mT
        logits = softcap * tanh(logits / softcap) + bias               # where given
        logits = logits.masked_fill(~mask.to_dense(B, Hq, Lq, Lk), -inf)
        out = dropout(softmax(logits, -1), dropout_p) @ value
        lse = logsumexp(logits, -1)

    A row that sees no key gives output 0, lse -inf and zero gradients. A NaN in a key, value or bias that a row does
    not see never reaches it.

    Args:
        query: (B, Hq, Lq, D), fp32, bf16, fp16, or fp64 (reference backend). D from 1 to 512.
        key: (B, Hk, Lk, D), or a list of segments (B or 1, Hk, Lk_s, D); Hq is a multiple of Hk.
        value: (B, Hk, Lk, Dv), or a list of as many segments. Batches of 1 broadcast, also the query's.
        mask: who sees whom over the concatenated key axis: a ``Mask``, or a bool tensor (True is visible)
            broadcastable to (B, Hq, Lq, Lk).
        bias: added to the logits: a float tensor broadcastable to (B, Hq, Lq, Lk), ``RelativeBias`` or
            ``DecomposedBias``. -inf masks the pair. Has a gradient.
        scale: multiplies the logits; 1/sqrt(D) when None.
        softcap: ``softcap * tanh(logits / softcap)``; None is none.
        dropout_p: probability in [0, 1] with which a pair's weight is dropped (Philox4x32-10 on the pair's indices).
        seed: of the dropout: an int, an int64 tensor of one element on the query's device, or None to draw it from
            torch's generator.
        return_lse: also return the log-sum-exp of every row.
        backend: "reference", "cpu", "triton" or "cuda"; None takes the first that can. Second derivatives, forward
            mode and ``torch.func`` run on the reference, whichever ran the first.
        dropout_offsets: (batch, head, query, key), added to the indices that dropout counts: a shard of a larger call
            draws its own part of the whole's bits.

    Returns:
        out (B, Hq, Lq, Dv), dense in the query's order of dimensions; with ``return_lse`` (out, lse), lse (B, Hq, Lq)
        in fp32 (fp64 for fp64), differentiable.

    Raises:
        TypeError, ValueError: naming the argument, before anything runs; also when the named backend cannot run it.

    Source: Vaswani et al., "Attention is all you need", 2017; Dao et al., "FlashAttention", 2022.
    """
    if mask is None and bias is None and softcap is None and seed is None and dropout_offsets is None:
        if plain.serves(query, key, value, scale, dropout_p, backend):
            return plain.attention(query, key, value, scale, return_lse, backend)  # type: ignore[arg-type]
    names = check.SINGLE if isinstance(key, Tensor) else check.LISTED
    keys, values = check.segments_of("key", key), check.segments_of("value", value)
    call = front.lower(
        query, keys, values, mask, bias, scale, softcap, dropout_p, seed, dropout_offsets, names
    )  # fmt: skip
    return front.result(front.run(call, backend, return_lse), return_lse)


def attention_varlen(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    *,
    mask: Mask | Tensor | None = None,
    bias: Bias | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    dropout_p: float = 0.0,
    seed: int | Tensor | None = None,
    return_lse: bool = False,
    max_seqlen_q: int | None = None,
    max_seqlen_k: int | None = None,
    backend: str | None = None,
    dropout_offsets: Sequence[int] | None = None,
) -> Any:
    """``attention`` of N sequences packed along the token axis: sequence n's queries see sequence n's keys only.

    Equivalent torch code::

        out = torch.cat([
            attention(query[q0:q1].transpose(0, 1)[None], key[k0:k1]..., value[k0:k1]...)[0].transpose(0, 1)
            for (q0, q1), (k0, k1) in zip(pairwise(cu_seqlens_q), pairwise(cu_seqlens_k))
        ])

    Mask, bias and dropout count queries and keys from the start of each sequence, so packed and padded calls agree.

    Args:
        query: (T, Hq, D). key: (Tk, Hk, D). value: (Tk, Hk, Dv).
        cu_seqlens_q, cu_seqlens_k: int32 (N + 1), where each sequence starts and the last one ends; on query's device.
            Equal neighbours make an empty sequence.
        mask: per sequence: ``Mask.causal``, ``window``, ``key_lengths`` of N lengths, ...; or a bool tensor
            broadcastable to (N, Hq, max_seqlen_q, max_seqlen_k).
        bias: a float tensor broadcastable to (N, Hq, max_seqlen_q, max_seqlen_k), ``RelativeBias`` with a table
            (Hq or 1, max_seqlen_q + max_seqlen_k - 1), or ``DecomposedBias``.
        max_seqlen_q, max_seqlen_k: lengths of the longest sequences. Only a bias and a dense mask need them; None
            computes them, which is possible on the CPU in eager mode only.
        scale, softcap, dropout_p, seed, return_lse, backend, dropout_offsets: as in ``attention``.

    Returns:
        out (T, Hq, Dv); with ``return_lse`` (out, lse), lse (Hq, T).

    Raises:
        TypeError, ValueError: naming the argument, before anything runs.
    """
    call = front.lower_varlen(
        query, key, value, cu_seqlens_q, cu_seqlens_k, mask, bias, scale, softcap, dropout_p, seed, dropout_offsets,
        max_seqlen_q, max_seqlen_k,
    )  # fmt: skip
    return front.result(front.run(call, backend, return_lse), return_lse)


def joint_attention(
    queries: Sequence[Tensor],
    keys: Sequence[Tensor],
    values: Sequence[Tensor],
    *,
    mask: Mask | Tensor | None = None,
    bias: Bias | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    dropout_p: float = 0.0,
    seed: int | Tensor | None = None,
    return_lse: bool = False,
    backend: str | None = None,
    dropout_offsets: Sequence[int] | None = None,
) -> Any:
    """Attention in which every segment of the query sees every segment of the keys (MM-DiT: text and image jointly).

    Equivalent torch code::

        out = attention(torch.cat(queries, 2), torch.cat(keys, 2), torch.cat(values, 2), ...)
        return list(out.split([q.shape[2] for q in queries], 2))

    Mask, bias and dropout index the concatenated axes; nothing is concatenated.

    Args:
        queries: list of (B or 1, Hq, Lq_s, D). keys, values: lists as in ``attention``.
        mask, bias, scale, softcap, dropout_p, seed, backend, dropout_offsets: as in ``attention``.

    Returns:
        A list with one out per query segment; with ``return_lse`` two lists, (outs, lses).

    Raises:
        TypeError, ValueError: naming the argument, before anything runs.

    Source: Esser et al., "Scaling rectified flow transformers for high-resolution image synthesis", 2024.
    """
    segments = joint.check_queries(queries)
    for name, given in (("keys", keys), ("values", values)):
        if isinstance(given, Tensor):
            raise TypeError(f"{name} must be a list of tensors (segments), got a tensor")
    calls = joint.lower_joint(
        segments, check.segments_of("keys", keys), check.segments_of("values", values), mask, bias, scale, softcap,
        dropout_p, seed, dropout_offsets,
    )  # fmt: skip
    found = [front.run(call, backend, return_lse) for call in calls]
    outs = [out for out, _ in found]
    return (outs, [lse for _, lse in found]) if return_lse else outs


def explain(
    query: Tensor,
    key: Tensor | Sequence[Tensor],
    value: Tensor | Sequence[Tensor],
    *,
    mask: Mask | Tensor | None = None,
    bias: Bias | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    dropout_p: float = 0.0,
    seed: int | Tensor | None = None,
    return_lse: bool = False,
    backend: str | None = None,
    dropout_offsets: Sequence[int] | None = None,
) -> backends.Explanation:
    """Which backend ``attention`` would run with these arguments, why not the others, and what is unverified.

    Nothing is computed. Takes the arguments of ``attention`` and raises as it does for wrong ones, but not for a named
    backend that cannot run: that is an answer.

    Returns:
        A dict ``{"forward": Choice, "backward": Choice}``; a ``Choice`` has ``problem``, ``backend`` (a name or None),
        ``why_not`` (sentences by backend) and ``unverified`` (sentences). ``print`` shows it as text.
    """
    names = check.SINGLE if isinstance(key, Tensor) else check.LISTED
    keys, values = check.segments_of("key", key), check.segments_of("value", value)
    seed = 0 if seed is None else seed
    call = front.lower(
        query, keys, values, mask, bias, scale, softcap, dropout_p, seed, dropout_offsets, names
    )  # fmt: skip
    directions = ("forward", "backward")
    return backends.Explanation(
        {direction: backends.choose(problem_of(call, direction), backend) for direction in directions}
    )
