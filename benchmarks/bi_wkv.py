"""How the time of Bi-WKV grows with the tokens: forward and backward, one thread, median of several runs.

    python benchmarks/bi_wkv.py [--channels 192] [--repeats 7]

Time is the processor time of this process on a CPU, so that a busy machine matters less, and wall time on a GPU. The
slope of log(time) over log(T) is 1 for a linear algorithm and 2 for attention.
"""

import argparse
import math
import statistics
import time

import torch

from segzoo.nn import bi_wkv

TOKENS = (1024, 2048, 4096, 8192, 16384)


def seconds(tokens: int, channels: int, repeats: int, device: str) -> tuple[float, float]:
    """Median time of a forward pass without gradients, and of one with its backward pass."""
    w, u = ((scale * torch.randn(channels, device=device) / tokens).requires_grad_() for scale in (5, 1))
    k, v = (torch.randn(1, tokens, channels, device=device).requires_grad_() for _ in range(2))
    grad = torch.ones(1, tokens, channels, device=device)

    def clock() -> float:
        if device == "cuda":
            torch.cuda.synchronize()
            return time.perf_counter()
        return time.process_time()

    forward, both = [], []
    for _ in range(repeats + 1):  # the first one warms up
        start = clock()
        with torch.no_grad():
            bi_wkv(w, u, k, v)
        middle = clock()
        torch.autograd.grad(bi_wkv(w, u, k, v), (w, u, k, v), grad)
        forward.append(middle - start)
        both.append(clock() - middle)
    return statistics.median(forward[1:]), statistics.median(both[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--channels", type=int, default=192)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows = []
    print(f"{'tokens':>8} {'forward ms':>12} {'with backward ms':>18}")
    for tokens in TOKENS:
        rows.append(seconds(tokens, args.channels, args.repeats, args.device))
        print(f"{tokens:8} {1e3 * rows[-1][0]:12.1f} {1e3 * rows[-1][1]:18.1f}", flush=True)
    steps = [math.log(tokens) for tokens in TOKENS]
    for name, column in zip(("forward", "with backward"), zip(*rows, strict=True), strict=True):
        slope = statistics.linear_regression(steps, [math.log(value) for value in column]).slope
        print(f"slope of log(time) over log(T), {name}: {slope:.2f}")


if __name__ == "__main__":
    main()
