"""Bi-WKV, the bidirectional token mixing of Vision-RWKV: exact, stable and linear in the tokens.

On a GPU the Triton kernels of wkv_triton.py do the work, where they can, and on a CPU wkv_blocks.py does, unless the
decays are steep. The rest of this file is plain PyTorch for everything else: steep decays, float64 on GPUs, exports,
machines without Triton.

Much is computed in place: memory for long sequences comes fresh from the system each time, at the price of arithmetic.

How it works. All that is needed is the sum over the tokens on one side of t: the flipped sequence gives the other side,
x = 1 the denominator and x = v the numerator. The decay is a factor of i times a factor of t,

    past_t = Σ_{i<t} e^(k_i - w(t-1-i)) x_i = e^(M - w(t-1)) · Σ_{i<t} e^(k_i + wi - M) x_i,

so that one cumulative sum serves all rows. M is the greatest exponent of all tokens, and terms far below it underflow.
But the token that sets M is itself seen from everywhere, on the one side or on the other, and even where the decay
is against it, it outweighs what it drowned by e^(87 - 2|w|T) in float32, by e^(708 - 2|w|T) in float64. Where that is
too little, the tokens are cut into chunks, each with a maximum of its own, and the sum up to a chunk is carried into
it. In the limit a chunk is one token: the plain recurrence with a running maximum, exact whatever the numbers.
"""

import functools
import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from segzoo.errors import SegzooError
from segzoo.nn.tiles import eager_on_cpu
from segzoo.nn.wkv_blocks import BiWKVInBlocks

_EMPTY = -1e30  # log scale of a sum without terms: finite, since inf - inf is NaN
_ROOM = {torch.float32: 64.0, torch.float64: 640.0}  # for 2|w|T; what then underflows has a share below e^(64 - 87)
_TRACED_CHUNKS = 16  # while tracing, values cannot be read

_Sums = tuple[Tensor, list[Tensor]]  # (scale, sums) stands for e^scale · sums


def bi_wkv(w: Tensor, u: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Mix the tokens of both directions with weights that decay exponentially with their distance.

    ``y_t = Σ_i p_ti v_i``, where p_ti is the softmax over i of ``k_i - w(|t-i| - 1)``, or of ``k_t + u`` for i = t.
    This is the formula of the Vision-RWKV paper, with its exact gradient. Time and memory are linear in T. The
    arithmetic is float32 or better whatever the autocast. Extreme w and u do no harm: a CPU then computes in
    float64, since float32 has too few digits for the exponents. On a GPU with Triton, which PyTorch brings along on
    Linux, float32 inputs go through kernels that take the exponents apart instead (wkv_triton.py), and never have to
    look at values.

    The CUDA kernels released with Vision-RWKV compute something slightly different: the sums that they hand from one
    run of T/16 or T/32 tokens to the next have decayed by one token too many. Unnormalised, a token there weighs
    e^(-w|t-i|) instead of e^(-w(|t-i|-1)), unless it comes earlier in the same run, and the own weight e^u mostly
    lacks e^w - 1. With freshly initialised decays the outputs differ by 6 % at T = 7, 0.07 % at T = 196 and 0.007 %
    at T = 1024; their gradients for k and v, true to neither formula, by about 2 % of the largest. Weights trained
    with those kernels can be used here, but outputs agree with theirs to about 1e-3 only.

    `torch.compile` and `torch.export` (hence ONNX) get plain PyTorch operations on any device. They cannot look at
    values, and always cut the tokens into 16 chunks: exact while |w|·(T/8 + 2) + max(-u, 0) is below 64, which training
    does not come near.

    Args:
        w: decay per token, [C], already divided by the number of tokens; may be negative (far tokens weigh more).
        u: bonus of the own token, [C], already divided by the number of tokens.
        k: log weights, [B, T, C], at least one token.
        v: values, [B, T, C].

    Returns:
        y, [B, T, C], in the dtype of v. It can be differentiated once, by all four arguments.

    Raises:
        SegzooError: if the shapes do not fit.

    Example:
        >>> import torch
        >>> from segzoo.nn import bi_wkv
        >>> k, v = torch.zeros(1, 4, 1), torch.arange(4.0).view(1, 4, 1)
        >>> bi_wkv(torch.zeros(1), torch.zeros(1), k, v).flatten()  # no decay and all alike: the mean
        tensor([1.5000, 1.5000, 1.5000, 1.5000])
        >>> bi_wkv(torch.zeros(1), torch.full((1,), 20.0), k, v).flatten().round()  # a large bonus: each sees itself
        tensor([0., 1., 2., 3.])
    """
    if k.ndim != 3 or k.shape != v.shape or w.shape != k.shape[2:] or u.shape != k.shape[2:]:
        shapes = ", ".join(f"{name} {list(x.shape)}" for name, x in (("w", w), ("u", u), ("k", k), ("v", v)))
        raise SegzooError(f"bi_wkv needs w and u of shape [C], k and v of one shape [B, T, C], and got {shapes}.")
    dtype = functools.reduce(torch.promote_types, (w.dtype, u.dtype, k.dtype, v.dtype), torch.float32)
    # Autocast lowers none of the operations below, so that it is enough to cast the inputs.
    if kernels := _kernels_for(k, dtype):
        return kernels(w.to(dtype), u.to(dtype), k.to(dtype), v.to(dtype)).to(v.dtype)
    dtype, chunks = _plan(w, u, k.shape[1], dtype)
    inputs = (w.to(dtype), u.to(dtype), k.to(dtype), v.to(dtype))
    is_tame = chunks == 1 < k.shape[1]  # for a single token nothing bounds w and u
    y: Tensor = BiWKVInBlocks.apply(*inputs) if is_tame and eager_on_cpu(k) else _BiWKV.apply(*inputs, chunks)
    return y.to(v.dtype)


def _kernels_for(k: Tensor, dtype: torch.dtype) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor] | None:
    """Find Bi-WKV in Triton, if it is made for such tensors."""
    if not k.is_cuda or dtype != torch.float32 or torch.compiler.is_compiling():
        return None
    return _kernels_on(k.device)


@functools.cache
def _kernels_on(device: torch.device) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor] | None:
    """Find Bi-WKV in Triton, if it runs on the device: not all machines have triton, or the C compiler it calls."""
    try:
        from segzoo.nn.wkv_triton import bi_wkv as kernels

        one = torch.ones(1, 1, 1, device=device)
        kernels(one[0, 0], one[0, 0], one, one)
    except ImportError:
        return None
    except Exception as error:  # of many kinds: no compiler, a GPU that is too old, a version that does not fit
        warnings.warn(f"Bi-WKV does without its Triton kernels on {device}, and is slower: {error}", stacklevel=4)
        return None
    return kernels


class _BiWKV(torch.autograd.Function):
    """Bi-WKV with its gradient by hand: faster than through the sums, and it keeps seven tensors instead of dozens."""

    @staticmethod
    def forward(ctx: Any, w: Tensor, u: Tensor, k: Tensor, v: Tensor, chunks: int) -> Tensor:
        k = k - k.amax(1, keepdim=True)  # y does not see it, and floats are finest near zero
        ones = v.new_ones(1, v.shape[1], 1)
        (past_scale, past), (future_scale, future) = _sums_of_others(w, k, (ones, v), chunks)
        own = k + u
        top = torch.maximum(torch.maximum(past_scale, future_scale), own)
        past_weight, future_weight, own = (x.sub_(top).exp_() for x in (past_scale, future_scale, own))
        past, future = [x.mul_(past_weight) for x in past], [x.mul_(future_weight) for x in future]
        total = past[0] + future[0] + own
        y = (past[1] + future[1]).add_(own.mul_(v)).div_(total)
        past_pull = past[1].sub_(past[0].mul_(y)).div_(total)  # Σ_{i<t} p_ti (v_i - y_t), for the gradient of w
        ctx.save_for_backward(w, u, k, v, y, top.add_(total.log_()), past_pull)
        ctx.chunks = chunks
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, None]:
        # With p_ti = e^(k_i - w(|t-i|-1) - log_total_t) and G_ti = grad_t p_ti (v_i - y_t), by the chain rule
        # dv_i = Σ_t grad_t p_ti, dk_i = Σ_t G_ti, du = Σ_t G_tt, dw = -Σ_{t≠i} G_ti (|t-i| - 1).
        # The sums over t are those of the forward pass again, now with the log weights -log_total_t.
        w, u, k, v, y, log_total, past_pull = ctx.saved_tensors
        (past_scale, past), (future_scale, future) = _sums_of_others(w, -log_total, (grad, grad * y), ctx.chunks)
        past_weight, future_weight = past_scale.add_(k).exp_(), future_scale.add_(k).exp_()
        past, future = [x.mul_(past_weight) for x in past], [x.mul_(future_weight) for x in future]
        own = (k + u).sub_(log_total).exp_().mul_(grad)
        own_pull = own * (v - y)  # G_tt
        pull_from_past, pull_from_future = v * past[0] - past[1], v * future[0] - future[1]  # Σ_{t<i} and Σ_{t>i} G_ti
        # |t-i| is taken apart into the positions t and i. Every row of G sums to zero, so that the origin is free.
        tokens = k.shape[1]
        position = torch.arange(tokens, dtype=k.dtype, device=k.device).unsqueeze(-1) - (tokens - 1) / 2
        moment = position * (2 * grad * past_pull + own_pull + pull_from_past - pull_from_future)
        return (
            -(moment + own_pull).sum((0, 1)),
            own_pull.sum((0, 1)),
            pull_from_past + pull_from_future + own_pull,
            past[0] + future[0] + own,
            None,
        )


def _sums_of_others(w: Tensor, log: Tensor, xs: Sequence[Tensor], chunks: int) -> tuple[_Sums, _Sums]:
    """Sum e^(log_i - w(|t-i|-1)) x_i for each x of xs, first over i < t, then over i > t."""
    if torch.compiler.is_compiling():
        return _sums_of_others_at_once(w, log, xs)
    scale, sums = _past_sums(w, log.flip(1), [x.flip(1) for x in xs], chunks)
    return _past_sums(w, log, xs, chunks), (scale.flip(1), [x.flip(1) for x in sums])


def _sums_of_others_at_once(w: Tensor, log: Tensor, xs: Sequence[Tensor]) -> tuple[_Sums, _Sums]:
    """Do the same with both directions and all chunks at once, in a third of the operations and none in place.

    Tracers and exporters take their time by the operation. The chunks cannot wait for each other here: what each hands
    on is put together for all later ones in a small matrix [chunks, chunks] for every channel.
    """
    tokens, chunks = log.shape[1], _TRACED_CHUNKS
    length = (tokens - 1) // chunks + 2  # never 1, for which a tracer would make an exception
    # Cut as in _past_sums, to [log and xs, directions, B, chunks, length, C]. What fills up weighs nothing.
    rows = torch.stack(torch.broadcast_tensors(log, *xs))
    rows = torch.stack((rows, rows.flip(2)), 1)
    rows = F.pad(rows, (0, 0, 1, chunks * length - tokens - 1), value=_EMPTY).unflatten(3, (chunks, length))
    tilt = w * torch.arange(length, dtype=w.dtype, device=w.device).unsqueeze(-1)
    tilted = rows[0] + tilt
    top = tilted.amax(3, keepdim=True)
    terms = (tilted - top).exp() * rows[1:]
    sums = _cumsum_by_doubling(terms) if _is_cumsum_refused(terms) else terms.cumsum(4)

    chunk = torch.arange(chunks, device=w.device)
    between = (chunk.unsqueeze(-1) - chunk - 1).unsqueeze(-1)  # chunks from the end of one (column) to another (row)
    handed = (top - tilt[-1]).transpose(2, 3) - w * (1 + length * between)
    handed = handed.masked_fill(between < 0, _EMPTY)
    carried_top = handed.amax(3, keepdim=True)
    carried = ((handed - carried_top).exp() * sums[..., -1:, :].transpose(3, 4)).sum(4, keepdim=True)

    scale = torch.maximum(top, carried_top)
    sums = (top - scale).exp() * sums + (carried_top - scale).exp() * carried
    token = torch.arange(tokens, device=w.device)
    # Not a slice: torch.export cannot prove for all T that it fits, and would allow fewer.
    scales = (scale - tilt).flatten(2, 3)
    sums = sums.flatten(3, 4)
    past, future = (
        (scales[way].index_select(1, index), [x[way].index_select(1, index) for x in sums])
        for way, index in enumerate((token, tokens - 1 - token))
    )
    return past, future


def _past_sums(w: Tensor, log: Tensor, xs: Sequence[Tensor], chunks: int) -> _Sums:
    """Sum e^(log_i - w(t-1-i)) x_i over i < t for each x of xs.

    Args:
        w: decay per token, [C].
        log: log weights, [B, T, C].
        xs: values, each [B, T, C] or with a 1 for B or C.
        chunks: how many chunks to cut the tokens into.
    """
    tokens = log.shape[1]
    length = (tokens - 1) // chunks + 1

    def cut(x: Tensor, fill: float) -> tuple[Tensor, ...]:
        """Cut x into full chunks, with token t-1 in row t: the last one that counts for t."""
        shifted = F.pad(x, (0, 0, 1, chunks * length - tokens - 1), value=fill)
        return shifted.unflatten(1, (chunks, length)).unbind(1)

    tilt = w * torch.arange(length, dtype=w.dtype, device=w.device).unsqueeze(-1)
    carried_scale, carried = torch.full_like(log[:, :1], _EMPTY), [torch.zeros_like(x[:, :1]) for x in xs]
    scales, sums = [], []
    for chunk, *chunk_xs in zip(cut(log, _EMPTY), *(cut(x, 0.0) for x in xs), strict=True):
        tilted, carried_scale = chunk + tilt, carried_scale - w
        top = torch.maximum(tilted.amax(1, keepdim=True), carried_scale)
        weight, carried_weight = tilted.sub_(top).exp_(), (carried_scale - top).exp_()
        terms = [weight * x for x in chunk_xs]
        for term, carry in zip(terms, carried, strict=True):
            term[:, :1] += carried_weight * carry
        scales.append(top - tilt)
        sums.append([_cumsum(term) for term in terms])
        carried_scale, carried = scales[-1][:, -1:], [x[:, -1:] for x in sums[-1]]
    return _join(scales, tokens), [_join(parts, tokens) for parts in zip(*sums, strict=True)]


def _join(parts: Sequence[Tensor], tokens: int) -> Tensor:
    """Put the chunks together again, without what filled up the last one."""
    return (parts[0] if len(parts) == 1 else torch.cat(tuple(parts), 1))[:, :tokens]


def _cumsum(x: Tensor) -> Tensor:
    """Sum each row of [B, T, C] with all rows before it."""
    return _cumsum_by_doubling(x) if _is_cumsum_refused(x) else x.cumsum(1)


def _is_cumsum_refused(x: Tensor) -> bool:
    """Tell whether PyTorch's own would be: that of floats on CUDA under `Trainer(deterministic=True)`."""
    return x.is_cuda and torch.are_deterministic_algorithms_enabled()


def _cumsum_by_doubling(x: Tensor) -> Tensor:
    """Do so in log2(T) additions; x is [..., T, C]."""
    reach = 1
    while reach < x.shape[-2]:
        x = x + F.pad(x[..., :-reach, :], (0, 0, reach, 0))
        reach *= 2
    return x


def _plan(w: Tensor, u: Tensor, tokens: int, dtype: torch.dtype) -> tuple[torch.dtype, int]:
    """Choose the precision and the least number of chunks in which nothing is lost.

    It reads the extremes of w and u, for which a GPU has to be waited for once.
    """
    if torch.compiler.is_compiling() or w.is_meta:
        return dtype, 1
    with torch.no_grad():
        steepest, bonus = torch.stack((w.abs().amax(), u.abs().amax())).tolist()
    tilt = 2 * steepest
    # in its own row, the token that sets the maximum counts e^u only; so written that NaN ends here, and shows
    if not tilt * (tokens - 1) + bonus > _ROOM[dtype]:
        return dtype, 1
    if w.device.type != "mps":  # it has no float64
        dtype = torch.float64
    room = _ROOM[dtype] - bonus
    length = 1 + int(min(room / tilt, tokens)) if room > 0 and tilt > 0 else 1
    return dtype, math.ceil(tokens / length)
