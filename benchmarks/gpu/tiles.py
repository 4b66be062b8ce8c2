"""Time of the depthwise kernel by shape and tile: whether the engine's candidates contain the best ones.

In a rehearsal without CUDA, the kernel runs in Triton's interpreter.
"""

import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import torch
from torch import Tensor

from benchmarks.gpu.step import Options, Results, start
from model.inference.cuda.compilation import compile_in_parallel
from model.inference.cuda.depthwise import (
    DepthwiseWeights,
    Tile,
    candidate_tiles,
    compile_kernel,
    launch_kernel,
    tile_seconds,
)
from model.inference.cuda.gpu import CudaGpu, GpuStream

SHAPES = [(56, 96), (28, 192), (14, 384), (7, 768)]  # of convnext_tiny: height and width, channels
BATCH_SIZES = (128, 1, 8)
FLOP = 2 * 49  # per output


class HostStream:
    """Takes the place of a stream where there is no GPU."""

    def active(self) -> AbstractContextManager[None]:
        return nullcontext()

    def capture(self, work: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        return lambda: None, torch.empty(0)  # too slow to be done so often

    def wait(self) -> None:
        pass

    def seconds(self, work: Callable[[], None]) -> float:
        started = time.perf_counter()
        work()
        return time.perf_counter() - started


def all_tiles(side: int, channels: int) -> Iterator[Tile]:
    """Every tile that is not obviously wasteful, the engine's own first."""
    own = [tile for count in (64, 1) for tile in candidate_tiles(side, channels, count)]
    power = channels & -channels
    for rows, columns, warps in itertools.product((4, 2, 1), (16, 8, 32), (2, 4, 8, 1)):
        if columns < 2 * side or columns == 8:
            own.append(Tile(rows, columns, min(16 * warps, power), warps))
    yield from dict.fromkeys(own)


def sweep(side: int, channels: int, count: int, options: Options, results: Results) -> None:
    """The times of one shape, best first."""
    device, dtype = options.torch_device, torch.float16
    stream: GpuStream = CudaGpu(device).stream() if device.type == "cuda" else HostStream()
    x = torch.randn(count, side, side, channels, device=device).to(dtype)
    weight, bias = torch.randn(7, 7, channels, device=device), torch.randn(channels, device=device)
    weights = DepthwiseWeights(weight, bias, torch.zeros(channels, device=device, dtype=dtype), 1e-6)
    out = torch.empty_like(x)
    tiles = list(all_tiles(side, channels))[: 1 if options.small else None]
    if device.type == "cuda":
        compile_in_parallel([partial(compile_kernel, dtype, channels, weights.eps, tile) for tile in tiles])
    times: dict[Tile, float] = {}
    for tile in tiles:
        if options.seconds_left < 1:
            break
        with results.attempt(f"{side}×{side}×{channels} batch {count} {tile}"):
            times[tile] = tile_seconds(stream, x, weights, out, tile, launch_kernel)
    ranked = sorted(times.items(), key=lambda item: item[1])
    figures = [
        {"tile": list(tile), "us": 1e6 * s, "GFLOP/s": FLOP * x.numel() / s / 1e9, "GB/s": 4 * x.numel() / s / 1e9}
        for tile, s in ranked[:8]
    ]
    results.add(f"{side}×{side}×{channels} batch {count}", figures)


def main() -> None:
    options, results = start(__doc__)
    if options.small:
        sweep(3, 8, 1, options, results)
        return
    for count in BATCH_SIZES:
        for side, channels in SHAPES:
            if options.seconds_left > 3:
                sweep(side, channels, count, options, results)


if __name__ == "__main__":
    main()
