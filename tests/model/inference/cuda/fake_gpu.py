"""A GPU that is the CPU: a graph runs its work again, and time is what a test says it is."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor
from torch.nn import functional as F

from model.inference.cuda.depthwise import DepthwiseWeights, Tile
from model.inference.cuda.norm import NormWeights
from model.inference.cuda_runtime import Kernels


class FakeStream:
    """Fails on request, and counts what it does."""

    def __init__(self, gpu: "FakeGpu") -> None:
        self._gpu = gpu
        self.is_active = False
        self.waits = 0  # since the last capture

    def active(self) -> AbstractContextManager[None]:
        return self._activate()

    @contextmanager
    def _activate(self) -> Iterator[None]:
        before, self.is_active = self.is_active, True
        try:
            yield
        finally:
            self.is_active = before

    def capture(self, work: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        self._gpu.captures += 1
        if self._gpu.capture_error is not None:
            raise self._gpu.capture_error
        self._gpu.on_capture(self)
        self.waits = 0
        result = work()

        def launch() -> None:
            assert self.is_active, "a graph is launched on the active stream"
            self._gpu.launches += 1
            self._gpu.before_launch()
            result.copy_(work())

        return launch, result

    def wait(self) -> None:
        self.waits += 1
        if self._gpu.work_error is not None:
            raise self._gpu.work_error

    def seconds(self, work: Callable[[], None]) -> float:
        launches = self._gpu.launches
        self._gpu.before_measurement()
        started_at = time.perf_counter()
        work()
        measured_s = time.perf_counter() - started_at
        return self._gpu.seconds(self._gpu.launches > launches, measured_s)


class FakeGpu:
    """Graphs take half the time of what they replace, unless ``graph_speedup`` says otherwise."""

    def __init__(self, graph_speedup: float = 2.0) -> None:
        self.device = torch.device("cpu")
        self.graph_speedup = graph_speedup
        self.streams: list[FakeStream] = []
        self.pinned_buffers = self.captures = self.launches = self.synchronizations = 0
        self.capture_error: Exception | None = None
        self.work_error: Exception | None = None  # that waiting for the work reports
        self.on_capture: Callable[[FakeStream], None] = lambda stream: None
        self.before_launch: Callable[[], None] = lambda: None
        self.before_measurement: Callable[[], None] = lambda: None
        self.cost: Callable[[], float] | None = None  # what measurements return, instead of the real time

    def seconds(self, by_graph: bool, measured_s: float) -> float:
        cost_s = measured_s if self.cost is None else self.cost()
        return cost_s / (self.graph_speedup if by_graph else 1.0)

    def stream(self) -> FakeStream:
        self.streams.append(FakeStream(self))
        return self.streams[-1]

    def pinned(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        self.pinned_buffers += 1
        return torch.zeros(tuple(shape), dtype=dtype)

    def synchronize(self) -> None:
        self.synchronizations += 1


def exact_depthwise_norm(x: Tensor, weights: DepthwiseWeights) -> Tensor:
    """What the kernel computes, ``(N, H, W, C)`` float64."""
    channels = x.shape[3]
    padded = weights.outside.double().expand(x.shape[0], x.shape[1] + 6, x.shape[2] + 6, channels).clone()
    padded[:, 3:-3, 3:-3] = x.double()
    kernel = weights.weight.double().permute(2, 0, 1)[:, None]  # (C, 1, 7, 7)
    y = F.conv2d(padded.permute(0, 3, 1, 2), kernel, weights.bias.double(), groups=channels).permute(0, 2, 3, 1)
    return F.layer_norm(y, (channels,), eps=weights.eps)


def launch_in_torch(x: Tensor, weights: DepthwiseWeights, out: Tensor, tile: Tile) -> None:
    """Takes the place of the kernel."""
    out.copy_(exact_depthwise_norm(x, weights))


def exact_norm(x: Tensor, weights: NormWeights, side: int) -> Tensor:
    """What the kernel of the other LayerNorms computes, ``(patches, side · side · C)`` float64."""
    rows = x.double() + weights.add.double()
    y = F.layer_norm(rows, rows.shape[3:], weights.weight.double(), weights.bias.double(), weights.eps)
    tiles = y.unfold(1, side, side).unfold(2, side, side)  # (N, H/side, W/side, C, side, side)
    return tiles.permute(0, 1, 2, 4, 5, 3).reshape(-1, side * side * x.shape[3])


def norm_in_torch(x: Tensor, weights: NormWeights, side: int, out: Tensor) -> None:
    """Takes the place of that kernel."""
    out.copy_(exact_norm(x, weights, side).view_as(out))


IN_TORCH = Kernels(launch_in_torch, norm_in_torch, lambda network, dtype, input_size, sizes: None)
