"""Gpu: the CUDA runtime's interface to a device: streams, graphs, and pinned memory for copies."""

import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol
from weakref import WeakSet

import torch
from torch import Tensor

_recording = threading.Lock()  # torch can record one graph at a time
_failed: list[torch.cuda.CUDAGraph] = []  # to whose addresses torch's allocators refer


class GpuStream(Protocol):
    """A queue of work on the GPU, used by one thread at a time."""

    def active(self) -> AbstractContextManager[None]:
        """While active, the calling thread's work goes to this stream."""
        ...

    def capture(self, work: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        """Records the work in a graph instead of doing it; returns what launches the graph, and its result's memory.

        It is launched on the active stream. The graphs of a stream share memory: a launch overwrites results of others.
        """
        ...

    def wait(self) -> None:
        """Blocks until all work is done, without using a core."""
        ...

    def seconds(self, work: Callable[[], None]) -> float:
        """How long the GPU takes for ``work``."""
        ...


class Gpu(Protocol):
    """A CUDA device, or what stands for one in tests."""

    @property
    def device(self) -> torch.device:
        """Where tensors are."""
        ...

    def stream(self) -> GpuStream:
        """A new stream."""
        ...

    def pinned(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Memory of the host that the GPU can copy from and to on its own."""
        ...

    def synchronize(self) -> None:
        """Waits for everything that was started on the GPU."""
        ...


class CudaGpu:
    """A CUDA device. float32 means float32: convolutions use TF32 only if matrix products were allowed to."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        if torch.get_float32_matmul_precision() == "highest":
            torch.backends.cudnn.allow_tf32 = False

    def stream(self) -> GpuStream:
        return _CudaStream(self.device)

    def pinned(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        return torch.zeros(tuple(shape), dtype=dtype, pin_memory=True)

    def synchronize(self) -> None:
        torch.cuda.synchronize(self.device)


class _CudaStream:
    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch's
        self._done = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]  # torch's
        self._started = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]  # torch's
        self._ended = torch.cuda.Event(enable_timing=True, blocking=True)  # type: ignore[no-untyped-call]  # torch's
        self._graphs = WeakSet[torch.cuda.CUDAGraph]()  # whose memory the next ones share, until all are dropped

    def active(self) -> AbstractContextManager[None]:
        return torch.cuda.stream(self._stream)

    def capture(self, work: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        graph = torch.cuda.CUDAGraph()
        pool = next((other.pool() for other in self._graphs), None) or torch.cuda.graph_pool_handle()
        try:
            # Other threads may use the GPU meanwhile, for example those of another engine.
            with (
                _recording,
                self.active(),
                torch.cuda.graph(graph, pool=pool, stream=self._stream, capture_error_mode="thread_local"),
            ):
                result = work()
        except BaseException:
            self._graphs.clear()  # their pool is given up
            _end_allocation(graph, self._stream.device_index, pool)
            raise
        self._graphs.add(graph)
        return graph.replay, result

    def wait(self) -> None:
        self._done.record(self._stream)
        self._done.synchronize()

    def seconds(self, work: Callable[[], None]) -> float:
        self._started.record(self._stream)
        work()
        self._ended.record(self._stream)
        self._ended.synchronize()
        return float(self._started.elapsed_time(self._ended)) / 1000


def _end_allocation(graph: torch.cuda.CUDAGraph, device_index: int, pool: tuple[int, int]) -> None:
    """Ends what torch does not if a recording cannot be ended; with it, no graph could be recorded any more."""
    try:
        torch._C._cuda_endAllocateToPool(device_index, pool)  # noqa: SLF001 - as in torch.cuda.use_mem_pool
    except (RuntimeError, TypeError, AttributeError):
        return  # it has ended, or this torch has no such function
    _failed.append(graph)
