"""Bi-WKV for GPUs, as Triton kernels: float32, forward and backward, exact whatever the decays.

The idea: no sum decays while it is carried along. Each is kept relative to the token that is seen the most in it, with
that token's place, and how far away that is by now is worked out only where two sums meet. So a sum of
e^(k_i - w(t-1-i)) x_i over tokens before t is written as

    e^(log - w(t + far)) · (n, x),    the first for x_i = 1, the second for the values,

where log is the k of the token that is seen the most, far = -1 - its position, and n and x are relative to it. For
tokens after t it is e^(log - w(far - t)), with far = the position - 1. Which token is seen the most, and by how much,
does not change with t: nothing decays, no exponent is rounded T times over, and none overflows. Positions are integers
and exact, so that two exponents are subtracted part by part, `(log - log') - w(far - far')`, and the large parts that
they share are gone before anything is rounded. One rule, `_join`, adds a token to a sum and one sum to another, in
both directions.

As a loop over all tokens, one sequence would keep a GPU waiting for one token after the other. So the tokens are cut
into about √T chunks of about √T tokens: one kernel sums each chunk, one carries the sums from chunk to chunk, and the
last one goes through the tokens of all chunks at once. That is 4√T steps, and memory linear in T. The block sizes below
and the choice of √T are reasoned, not tuned. On an H100 (Triton 3.6, one sequence of 192 channels) 1024 tokens take 0.2
ms and 0.6 ms with the backward pass, 16384 tokens 0.4 and 0.8 ms; softmax attention in float32 takes 0.8 and 2.9 ms for
4096 tokens (benchmarks/bi_wkv.py --device cuda).

This module needs triton, which PyTorch brings along for CUDA on Linux; `segzoo.nn.bi_wkv` does without it elsewhere.
"""

import contextlib
import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

_EMPTY = tl.constexpr(-1e30)  # log scale of a sum without terms: finite, since inf - inf is NaN
_TILE = (4, 32)  # chunks x channels of one program: a thread for each, and a warp reads 128 bytes in a row
_OPTIONS = {"enable_fp_fusion": True}  # a - b·c in one rounding; newer versions of Triton ask for a decision


def bi_wkv(w: Tensor, u: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Mix the tokens of both directions, as `segzoo.nn.bi_wkv` does, which checks the arguments and casts them.

    Gradients are added up in a fixed order, and so are the same at each run.

    Args:
        w: decay per token, [C], float32 like all others, and on the same GPU.
        u: bonus of the own token, [C].
        k: log weights, [B, T, C], at least one token.
        v: values, [B, T, C].

    Returns:
        y, [B, T, C]. It can be differentiated once, by all four arguments.
    """
    y: Tensor = _BiWKV.apply(w, u, k, v)
    return y


class _BiWKV(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, w: Tensor, u: Tensor, k: Tensor, v: Tensor) -> Tensor:
        w, u, v = w.contiguous(), u.contiguous(), v.contiguous()
        k = (k - k.amax(1, keepdim=True)).contiguous()  # y does not see it, and floats are finest near zero
        y, log, far, total, pull = (torch.empty_like(v) for _ in range(5))
        _launch(_mix, w, u, k, v, _sums(w, k, None, None, v), y, log, far, total, pull, like=k)
        ctx.save_for_backward(w, u, k, v, y, log, far, total, pull)
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        # The formulas are those of the other path, in wkv.py.
        w, u, k, v, y, log, far, total, pull = ctx.saved_tensors
        share = (grad / total).contiguous()
        x = share * y
        grad_k, grad_v = torch.empty_like(k), torch.empty_like(v)
        sums = _sums(w, log, far, share, x)
        grad_wu = sums.new_empty(*sums.shape[:2], 2, len(w))  # by chunk: atomic additions would come in any order
        _launch(_mix_backward, w, u, k, v, log, far, share, x, pull, sums, grad_k, grad_v, grad_wu, like=k)
        return (*grad_wu.sum((0, 1)), grad_k, grad_v)


def _sums(w: Tensor, log: Tensor, far: Tensor | None, n: Tensor | None, x: Tensor) -> Tensor:
    """Sum what each chunk sees of the tokens before and after it, [B, chunks, 2 directions x (log, far, n, x), C]."""
    batch, tokens, channels = log.shape
    sums = log.new_empty(batch, math.ceil(tokens / _length(tokens)), 8, channels)
    _launch(_sum_chunks, w, log, far, n, x, sums, like=log)
    chunks = sums.shape[1]
    with _device_of(log):
        _carry[(*_grid(batch, channels), 2)](w, sums, batch, chunks, channels, *_TILE, **_OPTIONS)
    return sums


def _launch(kernel: Any, *tensors: Tensor | None, like: Tensor) -> None:
    """Run a kernel that goes through the tokens of all chunks of a [B, T, C] tensor."""
    batch, tokens, channels = like.shape
    length = _length(tokens)
    chunks = math.ceil(tokens / length)
    with _device_of(like):
        sizes = (batch * chunks, chunks, length, tokens, channels)
        kernel[_grid(batch * chunks, channels)](*tensors, *sizes, *_TILE, **_OPTIONS)


def _length(tokens: int) -> int:
    """√T, rounded up: as many tokens in a chunk as there are chunks."""
    return math.isqrt(tokens - 1) + 1


def _grid(rows: int, channels: int) -> tuple[int, int]:
    return math.ceil(rows / _TILE[0]), math.ceil(channels / _TILE[1])


def _device_of(x: Tensor) -> contextlib.AbstractContextManager[Any]:
    """Triton launches on the current GPU, which need not be the one that the tensors are on."""
    return torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext()


# In the kernels, a row is a chunk of one sequence, or for _carry a sequence; tiles are [rows, channels]. The kernels do
# without tl.zeros and whatever else is itself written in Triton: loaded for the compiler, it fails in the interpreter.


@triton.jit
def _join(w, one, other):
    """Add two sums (log, far, n, x): the one that is seen less is scaled to the other."""
    lead = (one[0] - other[0]) - w * (one[1] - other[1])
    first, less = lead > 0, tl.exp(-tl.abs(lead))
    scale, other_scale = tl.where(first, 1.0, less), tl.where(first, less, 1.0)
    log, far = tl.where(first, one[0], other[0]), tl.where(first, one[1], other[1])
    return log, far, scale * one[2] + other_scale * other[2], scale * one[3] + other_scale * other[3]


@triton.jit
def _weight(w, log, far):
    return tl.exp(log - w * far)


@triton.jit
def _empty(ROWS: tl.constexpr, CHANNELS: tl.constexpr):
    zero = tl.full((ROWS, CHANNELS), 0.0, tl.float32)
    return zero + _EMPTY, zero, zero, zero


@triton.jit
def _load_sum(sums, channels, mask):
    return (
        tl.load(sums, mask, 0.0),
        tl.load(sums + channels, mask, 0.0),
        tl.load(sums + 2 * channels, mask, 0.0),
        tl.load(sums + 3 * channels, mask, 0.0),
    )


@triton.jit
def _store_sum(sums, channels, mask, sum):
    tl.store(sums, sum[0], mask)
    tl.store(sums + channels, sum[1], mask)
    tl.store(sums + 2 * channels, sum[2], mask)
    tl.store(sums + 3 * channels, sum[3], mask)


@triton.jit
def _tile(rows, channels, ROWS: tl.constexpr, CHANNELS: tl.constexpr):
    """Find the rows and channels of this program, and which of them exist. Offsets into tensors may need 64 bits."""
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]).to(tl.int64)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)[None, :]
    return row, channel, (row < rows) & (channel < channels)


@triton.jit
def _token(row, channel, step, chunks, length, tokens, channels):
    """Find the position of the token at a step of each row, its offset in a [B, T, C] tensor, and whether it exists."""
    t = row % chunks * length + step
    return t.to(tl.float32), (row // chunks * tokens + t) * channels + channel, t < tokens


@triton.jit
def _load_term(log, far, n, x, at, mask):
    """Load a token as a term of sums; without far and n, with 0 and 1. One past the end of the tokens adds nothing."""
    log, x = tl.load(log + at, mask, _EMPTY), tl.load(x + at, mask, 0.0)
    if far is None:
        zero = tl.full(x.shape, 0.0, tl.float32)
        return log, zero, zero + 1, x
    else:
        return log, tl.load(far + at, mask, 0.0), tl.load(n + at, mask, 0.0), x


@triton.jit
def _seen_later(term, t):
    """Make a term of token t one for the sums over the tokens before."""
    return term[0], term[1] - t - 1, term[2], term[3]


@triton.jit
def _seen_before(term, t):
    """Make a term of token t one for the sums over the tokens after."""
    return term[0], term[1] + t - 1, term[2], term[3]


@triton.jit(do_not_specialize=["rows", "chunks", "length", "tokens"])
def _sum_chunks(
    w, log, far, n, x, sums, rows, chunks, length, tokens, channels, ROWS: tl.constexpr, CHANNELS: tl.constexpr
):
    """Sum the tokens of each chunk, seen from later and from before."""
    row, channel, real = _tile(rows, channels, ROWS, CHANNELS)
    w = tl.load(w + channel, channel < channels, 0.0)
    past = _empty(ROWS, CHANNELS)
    future = _empty(ROWS, CHANNELS)
    for step in range(length):
        t, at, exists = _token(row, channel, step, chunks, length, tokens, channels)
        term = _load_term(log, far, n, x, at, real & exists)
        past = _join(w, past, _seen_later(term, t))
        future = _join(w, future, _seen_before(term, t))
    sums += row * (8 * channels) + channel
    _store_sum(sums, channels, real, past)
    _store_sum(sums + 4 * channels, channels, real, future)


@triton.jit(do_not_specialize=["rows", "chunks"])
def _carry(w, sums, rows, chunks, channels, ROWS: tl.constexpr, CHANNELS: tl.constexpr):
    """Replace the sum of each chunk by that of all chunks before it, or in direction 1 after it."""
    row, channel, real = _tile(rows, channels, ROWS, CHANNELS)
    direction = tl.program_id(2)
    w = tl.load(w + channel, channel < channels, 0.0)
    carried = _empty(ROWS, CHANNELS)
    for step in range(chunks):
        chunk = step + direction * (chunks - 1 - 2 * step)
        at = ((row * chunks + chunk) * 8 + direction * 4) * channels + channel
        own = _load_sum(sums + at, channels, real)
        _store_sum(sums + at, channels, real, carried)
        carried = _join(w, carried, own)


@triton.jit(do_not_specialize=["rows", "chunks", "length", "tokens"])
def _mix(
    w,
    u,
    k,
    v,
    sums,
    y,
    log,
    far,
    total,
    pull,
    rows,
    chunks,
    length,
    tokens,
    channels,
    ROWS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Compute y and what its gradient needs.

    That is Σ_i e^(k_i - ...) = e^(-log - w·far) · total, and pull = total · Σ_{i<t} p_ti (v_i - y_t).
    """
    row, channel, real = _tile(rows, channels, ROWS, CHANNELS)
    w = tl.load(w + channel, channel < channels, 0.0)
    u = tl.load(u + channel, channel < channels, 0.0)
    sums += row * (8 * channels) + channel

    # Back through the chunk, the sums over later tokens are left in the outputs.
    future = _load_sum(sums + 4 * channels, channels, real)
    for step in range(length):
        t, at, exists = _token(row, channel, length - 1 - step, chunks, length, tokens, channels)
        tl.store(log + at, future[0], real & exists)
        tl.store(far + at, future[1], real & exists)
        tl.store(total + at, future[2], real & exists)
        tl.store(y + at, future[3], real & exists)
        future = _join(w, future, _seen_before(_load_term(k, None, None, v, at, real & exists), t))
    tl.debug_barrier()  # another thread of this program may read them

    past = _load_sum(sums, channels, real)
    for step in range(length):
        t, at, exists = _token(row, channel, step, chunks, length, tokens, channels)
        mask = real & exists
        own = _load_term(k, None, None, v, at, mask)
        later = _load_term(log, far, total, y, at, mask)
        seen = (past[0], past[1] + t, past[2], past[3])
        whole = _join(w, seen, (later[0], later[1] - t, later[2], later[3]))
        whole = _join(w, whole, (own[0] + u, own[1], own[2], own[3]))
        mixed = whole[3] / whole[2]
        past_weight = _weight(w, seen[0] - whole[0], seen[1] - whole[1])
        tl.store(y + at, mixed, mask)
        tl.store(log + at, -whole[0], mask)
        tl.store(far + at, -whole[1], mask)
        tl.store(total + at, whole[2], mask)
        tl.store(pull + at, past_weight * (seen[3] - seen[2] * mixed), mask)
        past = _join(w, past, _seen_later(own, t))


@triton.jit(do_not_specialize=["rows", "chunks", "length", "tokens"])
def _mix_backward(
    w,
    u,
    k,
    v,
    log,
    far,
    share,
    x,
    pull,
    sums,
    grad_k,
    grad_v,
    grad_wu,
    rows,
    chunks,
    length,
    tokens,
    channels,
    ROWS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Compute the gradients, those of w and u by chunk.

    Here share = grad / total and x = share · y. Names as in wkv.py, with G_ti = grad_t p_ti (v_i - y_t).
    """
    row, channel, real = _tile(rows, channels, ROWS, CHANNELS)
    w = tl.load(w + channel, channel < channels, 0.0)
    u = tl.load(u + channel, channel < channels, 0.0)
    sums += row * (8 * channels) + channel

    # Back through the chunk, the part of later tokens is left in the gradients.
    future = _load_sum(sums + 4 * channels, channels, real)
    for step in range(length):
        t, at, exists = _token(row, channel, length - 1 - step, chunks, length, tokens, channels)
        mask = real & exists
        key, value = tl.load(k + at, mask, _EMPTY), tl.load(v + at, mask, 0.0)
        weight = _weight(w, key + future[0], future[1] - t)
        tl.store(grad_v + at, weight * future[2], mask)
        tl.store(grad_k + at, weight * (value * future[2] - future[3]), mask)
        future = _join(w, future, _seen_before(_load_term(log, far, share, x, at, mask), t))
    tl.debug_barrier()  # another thread of this program may read them

    grad_w = tl.full((ROWS, CHANNELS), 0.0, tl.float32)
    grad_u = tl.full((ROWS, CHANNELS), 0.0, tl.float32)
    past = _load_sum(sums, channels, real)
    for step in range(length):
        t, at, exists = _token(row, channel, step, chunks, length, tokens, channels)
        mask = real & exists
        key, value = tl.load(k + at, mask, _EMPTY), tl.load(v + at, mask, 0.0)
        term = _load_term(log, far, share, x, at, mask)
        own_weight = _weight(w, key + u + term[0], term[1])
        own = own_weight * term[2]
        own_pull = own_weight * (value * term[2] - term[3])  # G_tt
        weight = _weight(w, key + past[0], past[1] + t)
        from_past = weight * past[2]
        pull_from_past = weight * (value * past[2] - past[3])  # Σ_{i<t} G_it
        pull_from_future = tl.load(grad_k + at, mask, 0.0)
        tl.store(grad_v + at, from_past + tl.load(grad_v + at, mask, 0.0) + own, mask)
        tl.store(grad_k + at, pull_from_past + pull_from_future + own_pull, mask)
        # |t-i| is taken apart into the positions t and i. Every row of G sums to zero, so that the origin is free.
        moved = 2 * term[2] * tl.load(pull + at, mask, 0.0) + own_pull + pull_from_past - pull_from_future
        grad_w -= (t - (tokens - 1) / 2) * moved + own_pull
        grad_u += own_pull
        past = _join(w, past, _seen_later(term, t))
    grad_wu += row * (2 * channels) + channel
    tl.store(grad_wu, grad_w, real)
    tl.store(grad_wu + channels, grad_u, real)
