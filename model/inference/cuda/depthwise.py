"""DepthwiseNorm: launches the kernel of ``kernels.py``, with tiles that are chosen by measurement."""

import logging
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from model.inference.batch_plan import nearest_size
from model.inference.cuda.gpu import GpuStream

logger = logging.getLogger(__name__)

_LAUNCHES = 10  # in one measurement
_MEASUREMENTS = 3
_SMALL_BATCH = 4


class Tile(NamedTuple):
    """What one program computes: ``rows`` × ``columns`` positions, ``channels`` at a time, on ``warps`` warps.

    With at most 16 channels per warp, the weights take the layout of the pixels, 8 channels per thread. More would make
    Triton exchange all pixels between threads, and spill registers.
    """

    rows: int
    columns: int
    channels: int
    warps: int


@dataclass(frozen=True)
class DepthwiseWeights:
    """Weights ``(7, 7, C)`` and bias ``(C,)`` in float32; ``outside`` ``(C,)`` is the value beyond the border."""

    weight: Tensor
    bias: Tensor
    outside: Tensor
    eps: float


Launch = Callable[[Tensor, DepthwiseWeights, Tensor, Tile], None]


def supports(channels: int) -> bool:
    """Whether the kernel can compute a layer of this width."""
    return channels % 8 == 0


def candidate_tiles(width: int, channels: int, batch_size: int) -> list[Tile]:
    """Tiles worth measuring for feature maps ``width`` wide; small batches need more programs to fill the GPU."""
    power = channels & -channels  # the largest power of 2 that divides it
    shapes = [(4, 16, 2), (2, 16, 8), (4, 16, 4)]
    if width > 16 and power >= 32:
        shapes[-1] = (4, 32, 2)
    if width <= 8:
        shapes = [(4, 8, 8), (2, 8, 8)]
    if batch_size < _SMALL_BATCH:
        shapes = [(1, 16, 4), (1, 8, 8)]
    tiles = []
    for rows, columns, warps in shapes:
        while 16 * warps > power and warps > 1:
            warps //= 2
        tiles.append(Tile(rows, columns, min(16 * warps, power), warps))
    return list(dict.fromkeys(tiles))


class DepthwiseNorm:
    """Depthwise 7×7 convolution, bias and LayerNorm of ``(N, H, W, C)``."""

    def __init__(self, launch: Launch | None = None) -> None:
        self._launch = launch or launch_kernel
        self.tiles: dict[tuple[int, ...], Tile] = {}  # by the shape (N, H, W, C)

    def __call__(self, x: Tensor, weights: DepthwiseWeights) -> Tensor:
        out = torch.empty_like(x)
        tile = self.tiles.get(tuple(x.shape)) or candidate_tiles(x.shape[2], x.shape[3], x.shape[0])[0]
        self._launch(x, weights, out, tile)
        return out

    def tune(self, stream: GpuStream, x: Tensor, weights: DepthwiseWeights) -> None:
        """Chooses the fastest tile for the shape of ``x``, once. Raises the last one's error if none can be used."""
        if tuple(x.shape) in self.tiles:
            return
        out = torch.empty_like(x)
        times: dict[Tile, float] = {}
        failure: Exception | None = None
        for tile in candidate_tiles(x.shape[2], x.shape[3], len(x)):
            try:
                times[tile] = tile_seconds(stream, x, weights, out, tile, self._launch)
            except Exception as error:  # noqa: BLE001 - Triton raises errors of many kinds
                failure = error
                logger.warning("%s cannot be used for %s:\n%s", tile, tuple(x.shape), traceback.format_exc())
        if failure is not None and not times:
            raise failure
        self.tiles[tuple(x.shape)] = min(times, key=times.__getitem__)

    def extend(self, sizes: Sequence[int]) -> None:
        """Gives batches of other ``sizes`` the tile of the nearest size that was measured."""
        for shape in {shape[1:] for shape in self.tiles}:
            measured = {key[0]: tile for key, tile in self.tiles.items() if key[1:] == shape}
            for size in sizes:
                self.tiles.setdefault((size, *shape), measured[nearest_size(measured, size)])


def tile_seconds(
    stream: GpuStream, x: Tensor, weights: DepthwiseWeights, out: Tensor, tile: Tile, launch: Launch
) -> float:
    """The least time that the device takes for one layer."""

    def launch_all() -> Tensor:
        for _ in range(_LAUNCHES):
            launch(x, weights, out, tile)
        return out

    with stream.active():
        launch(x, weights, out, tile)  # compiles
        stream.wait()
        replay, _ = stream.capture(launch_all)  # a launch takes the interpreter longer than a small kernel runs
        replay()
        return min(stream.seconds(replay) for _ in range(_MEASUREMENTS)) / _LAUNCHES


def launch_kernel(x: Tensor, weights: DepthwiseWeights, out: Tensor, tile: Tile) -> None:
    """Launches the Triton kernel on the current stream. Raises ``ImportError`` without Triton."""
    from model.inference.cuda.kernels import depthwise_norm

    count, height, width, channels = x.shape
    grid = (count * -(-height // tile.rows), -(-width // tile.columns))
    tensors = (x, weights.weight, weights.bias, weights.outside, out)
    depthwise_norm[grid](*tensors, height, width, **_options(channels, weights.eps, tile))


def compile_kernel(dtype: torch.dtype, channels: int, eps: float, tile: Tile) -> None:
    """Compiles it for activations of ``dtype`` and the active device. Raises ``ImportError`` without Triton."""
    from model.inference.cuda.kernels import depthwise_norm

    tensors = (dtype, torch.float32, torch.float32, dtype, dtype)
    depthwise_norm.warmup(*tensors, 1, 1, grid=(1,), **_options(channels, eps, tile))


def _options(channels: int, eps: float, tile: Tile) -> dict[str, Any]:  # Any: what Triton takes
    options = {"num_warps": tile.warps, "num_stages": 1, "enable_fp_fusion": True}
    return options | {"C": channels, "BC": tile.channels, "TW": tile.columns, "ROWS": tile.rows, "EPS": eps}
