"""Speed of Bi-WKV: how its time grows with the tokens, and what else mixes as many tokens of the same width.

    python benchmarks/bi_wkv.py [--channels 192] [--repeats 5] [--device cpu|cuda]

On one thread, the best of several rounds in which all take turns: whatever else the machine does only adds to a time.
Time is the processor time of this process on a CPU, and wall time on a GPU. The slope of log(time) over log(T) is 1 for
a linear algorithm and 2 for attention.
"""

import argparse
import math
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from segzoo.nn import bi_wkv

TOKENS = (1024, 2048, 4096, 8192, 16384)
LOOP_TOKENS = (1024,)
ATTENTION_TOKENS = (1024, 4096)
HEAD = 32  # channels of one head of attention
CHANNELS, ROUNDS = 192, 7  # of VRWKV-T

Case = tuple[Callable[..., Tensor], list[Tensor]]
Seconds = tuple[float, float]  # of a forward pass without gradients, and of one with its backward pass


def token_loop(w: Tensor, u: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Compute Bi-WKV one token after the other, forwards for the past and backwards for the future."""

    def states(tokens: range) -> dict[int, tuple[Tensor, Tensor, Tensor]]:
        top, total, sums = torch.full_like(k[:, 0], -1e30), torch.zeros_like(k[:, 0]), torch.zeros_like(k[:, 0])
        seen = {}
        for t in tokens:
            seen[t] = top, total, sums
            higher = torch.maximum(top - w, k[:, t])
            kept, added = (top - w - higher).exp(), (k[:, t] - higher).exp()
            top, total, sums = higher, kept * total + added, kept * sums + added * v[:, t]
        return seen

    past, future = states(range(k.shape[1])), states(range(k.shape[1] - 1, -1, -1))
    rows = []
    for t in range(k.shape[1]):
        (past_top, past_total, past_sums), (future_top, future_total, future_sums) = past[t], future[t]
        own = k[:, t] + u
        top = torch.maximum(torch.maximum(past_top, future_top), own)
        a, b, c = (past_top - top).exp(), (future_top - top).exp(), (own - top).exp()
        rows.append((a * past_sums + b * future_sums + c * v[:, t]) / (a * past_total + b * future_total + c))
    return torch.stack(rows, 1)


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k, v = (x.unflatten(-1, (-1, HEAD)).transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def cases(channels: int, device: str) -> dict[tuple[str, int], Case]:
    """Return all that is timed, by name and number of tokens."""

    def tensors(count: int, *shape: int, scale: float = 1.0) -> list[Tensor]:
        return [(scale * torch.randn(*shape, device=device)).requires_grad_() for _ in range(count)]

    found: dict[tuple[str, int], Case] = {}
    for tokens in TOKENS:
        inputs = tensors(2, channels, scale=5 / tokens) + tensors(2, 1, tokens, channels)
        found["Bi-WKV", tokens] = bi_wkv, inputs
        if tokens in LOOP_TOKENS:
            found["token loop", tokens] = token_loop, inputs
        if tokens in ATTENTION_TOKENS:
            found["attention", tokens] = attention, tensors(3, 1, tokens, channels)
    return found


def measure(function: Callable[..., Tensor], inputs: list[Tensor]) -> Seconds:
    """Time one turn, after a pass that nobody times: caches and free memory are as the one before has left them."""
    grad = torch.ones_like(inputs[-1])
    torch.autograd.grad(function(*inputs), inputs, grad)

    def clock() -> float:
        if grad.is_cuda:
            torch.cuda.synchronize()
            return time.perf_counter()
        return time.process_time()

    start = clock()
    with torch.no_grad():
        function(*inputs)
    middle = clock()
    torch.autograd.grad(function(*inputs), inputs, grad)
    return middle - start, clock() - middle


def best_times(channels: int, repeats: int, device: str) -> dict[tuple[str, int], Seconds]:
    """Return the best of several rounds, by name and number of tokens."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    todo = cases(channels, device)
    rounds: dict[tuple[str, int], list[Seconds]] = {case: [] for case in todo}
    for _ in range(repeats):
        for case, (function, inputs) in todo.items():
            rounds[case].append(measure(function, inputs))
    return {
        case: (min(forward for forward, _ in times), min(both for _, both in times)) for case, times in rounds.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--channels", type=int, default=CHANNELS, help=f"a multiple of {HEAD}")
    parser.add_argument("--repeats", type=int, default=ROUNDS, help="rounds")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    args = parser.parse_args()
    best = best_times(args.channels, args.repeats, args.device)

    print(f"{'':12} {'tokens':>8} {'forward ms':>12} {'with backward ms':>18}")
    for (name, tokens), (forward, both) in best.items():
        print(f"{name:12} {tokens:8} {1e3 * forward:12.1f} {1e3 * both:18.1f}")
    steps = [math.log(tokens) for tokens in TOKENS]
    for i, what in enumerate(("forward", "forward and backward")):
        times = [math.log(best["Bi-WKV", tokens][i]) for tokens in TOKENS]
        print(f"\n{what}: slope of log(time) over log(T) {statistics.linear_regression(steps, times).slope:.2f}")
        for name, tokens in best:
            if name != "Bi-WKV":
                ratio = best[name, tokens][i] / best["Bi-WKV", tokens][i]
                print(f"{what}: {ratio:.1f} times as fast as the {name} at {tokens} tokens")


if __name__ == "__main__":
    main()
