"""Bi-WKV on a CPU, for decays that are not steep: a few passes over the memory, and sums that are matrix products.

With a_i = e^(k_i - max k), what token t sees of the tokens before it is, for x = a and for x = a v,

    past_t = Σ_{i<t} e^(-w(t-1-i)) x_i = e^(-w(t-1)) Σ_{i<t} e^(wi) x_i.

Within a block of some rows the sum is a product with a triangular matrix of ones, which takes half the time of a
cumulative sum. What a block hands on is one row, and these rows are summed in the same way, now with a decay of a whole
block. The other side is the mirror image of this one.

All is within the range of floats as long as `wkv.py` finds one chunk enough for several tokens.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

ROWS = 32  # of a block: the product's arithmetic grows with them, and what is done for each block falls
TOKENS = 2**12  # of so many images at a time that what is between the passes stays in a cache


class BiWKVInBlocks(torch.autograd.Function):
    """Bi-WKV of w and u [C], k and v [B, T, C]: see :func:`segzoo.nn.bi_wkv`."""

    @staticmethod
    def forward(ctx: Any, w: Tensor, u: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Return y, [B, T, C]."""
        is_trained = any(ctx.needs_input_grad)
        y = torch.empty_like(v, memory_format=torch.contiguous_format)
        kept = []
        for k_part, v_part, y_part in zip(*map(parts, (k, v, y)), strict=True):
            pair, (a, av) = empty_pair(k_part)
            torch.sub(k_part, k_part.amax(1, keepdim=True), out=a).exp_()
            torch.mul(a, v_part, out=av)
            (past_total, past), (total, weighted) = sums(w, u, pair, k.shape[1])
            torch.div(weighted, total, out=y_part)
            if is_trained:
                pull = past.addcmul_(past_total, y_part, value=-1) / total  # Σ_{i<t} p_ti (v_i - y_t)
                kept += [a, av, total.clone(), pull]
        if is_trained:
            ctx.save_for_backward(w, u, y, *kept)
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        """Return the gradients of w, u, k and v."""
        # With p_ti the share of token i in y_t and G_ti = grad_t p_ti (v_i - y_t), by the chain rule
        # dv_i = Σ_t grad_t p_ti, dk_i = Σ_t G_ti, du = Σ_t G_tt, dw = -Σ_{t≠i} G_ti (|t-i| - 1).
        # The sums over t are those of the forward pass again, now of h = grad / total and of h y.
        w, u, y, *kept = ctx.saved_tensors
        tokens = y.shape[1]
        # |t-i| is taken apart into the positions t and i. Every row of G sums to zero, so that the origin is free.
        twice = 2 * torch.arange(tokens, dtype=y.dtype).unsqueeze(-1) - (tokens - 1)
        dw, du = torch.zeros_like(w), torch.zeros_like(u)
        dk, dv = (torch.empty_like(y) for _ in range(2))
        rows = zip(*map(parts, (y, grad, dk, dv)), *(kept[number::4] for number in range(4)), strict=True)
        for y_part, grad_part, dk_part, dv_part, a, av, total, pull in rows:
            pair, (h, hy) = empty_pair(y_part)
            torch.div(grad_part, total, out=h)
            torch.mul(h, y_part, out=hy)
            (past_h, past_hy), (seen_h, seen_hy) = sums(w, u, pair, tokens)
            torch.mul(a, seen_h, out=dv_part)
            torch.mul(av, seen_h, out=dk_part).addcmul_(a, seen_hy, value=-1)
            own = h.mul_(av).addcmul_(a, hy, value=-1).mul_(u.exp())  # G_tt
            arm = (grad_part * pull).add_(own).addcmul_(av, past_h).addcmul_(a, past_hy, value=-1)
            dw -= arm.sub_(dk_part, alpha=0.5).mul_(twice).sum((0, 1))
            du += own.sum((0, 1))
        return dw.sub_(du), du, dk, dv


def parts(x: Tensor) -> Sequence[Tensor]:
    """Cut the batch of x [B, T, C]."""
    return x.split(max(1, TOKENS // x.shape[1]))


def empty_pair(like: Tensor) -> tuple[Tensor, Sequence[Tensor]]:
    """Make room for two tensors like one [B, T, C] side by side.

    Returns:
        both together [B, T', 2 C], where T' is a whole number of blocks and the rows after T are zero; and each.
    """
    batch, tokens, channels = like.shape
    pair = like.new_empty(batch, whole_blocks(tokens), 2 * channels)
    pair[:, tokens:] = 0
    return pair, pair[:, :tokens].chunk(2, 2)


def whole_blocks(tokens: int) -> int:
    """Return the number of rows that whole blocks of so many tokens have."""
    return tokens if tokens <= ROWS else -(-tokens // ROWS) * ROWS


def sums(w: Tensor, u: Tensor, pair: Tensor, tokens: int) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
    """Sum e^(-w(|t-i|-1)) x_i over i < t; and over all i, where that of i = t is e^u x_t; for the two of a pair."""
    with torch.autocast(pair.device.type, enabled=False):
        w = w.repeat(2)
        past, decay = one_side(w, pair)
        past.mul_(decay)
        future, decay = one_side(w, pair, later=True)
    seen = torch.addcmul(past, future, decay, out=future).view(pair.shape).addcmul_(pair, u.exp().repeat(2))
    return past.view(pair.shape)[:, :tokens].chunk(2, 2), seen[:, :tokens].chunk(2, 2)


def one_side(w: Tensor, x: Tensor, *, later: bool = False) -> tuple[Tensor, Tensor]:
    """Sum e^(-w(|t-i|-1)) x_i over i < t, or over i > t; for x [B, T', C] of whole blocks.

    Returns:
        two factors of that: of each token [B · blocks, rows, C], and of each row [rows, C].
    """
    batch, tokens, channels = x.shape
    rows = min(tokens, ROWS)
    blocks = x.view(-1, rows, channels)
    place = torch.arange(rows, dtype=w.dtype).unsqueeze(-1) - (rows - 1) / 2
    rising = (w * place).exp()
    falling = rising.flip(0)
    weight, decay = (falling, rising) if later else (rising, falling)
    # in each block's first row what the blocks on that side hand on, which all its tokens see
    terms = x.new_empty(len(blocks), 1 + rows, channels)
    torch.mul(blocks, weight * w.exp(), out=terms[:, 1:])
    terms[:, :1] = handed_on(w, terms[:, 1:], rising[0], batch, later=later) if rows < tokens else 0
    matrix = torch.ones(rows, 1 + rows, dtype=w.dtype)
    matrix[:, 1:] = matrix[:, 1:].triu(1) if later else matrix[:, 1:].tril(-1)
    return torch.matmul(matrix, terms), decay


def handed_on(w: Tensor, terms: Tensor, half: Tensor, batch: int, *, later: bool) -> Tensor:
    """Return for each block what its first token sees of the blocks before, or its last of those after it."""
    _, rows, channels = terms.shape
    each = (terms.sum(1) * (half / w.exp())).view(batch, -1, channels)
    count = each.shape[1]
    whole = F.pad(each, (0, 0, 0, whole_blocks(count) - count))
    sums, decay = one_side(w * rows, whole, later=later)
    return ((sums * decay).view(whole.shape)[:, :count] * half).reshape(-1, 1, channels)
