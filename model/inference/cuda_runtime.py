"""CudaRuntime: the folded network on a CUDA device, by the fastest paths that are proved on it."""

import copy
import itertools
import logging
import queue
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple, cast

import torch

from model.convnext import ConvNeXt
from model.images.transform import Pixels
from model.inference.batch_plan import measured_sizes, nearest_size
from model.inference.compilation import compiled_for_each_size
from model.inference.cuda.compilation import compile_kernels
from model.inference.cuda.depthwise import DepthwiseNorm, Launch, launch_kernel
from model.inference.cuda.fused import FusedConvNeXt, available_paths
from model.inference.cuda.gpu import Gpu
from model.inference.cuda.norm import NormLaunch, launch_norm
from model.inference.cuda.paths import Candidate, Choice, Comparison, reference_outputs
from model.inference.cuda.slot import Slot
from model.inference.device_errors import is_out_of_memory
from model.inference.precise_head import PreciseHead
from model.inference.runtime import Outputs
from model.inference.timing import logged

logger = logging.getLogger(__name__)

_GRAPHS_TOLERANCE = 1.05  # large batches take the device as long without them, but the host launches each kernel


class Kernels(NamedTuple):
    """What launches the kernels of this package, and what compiles all that a network may use."""

    depthwise: Launch
    norm: NormLaunch
    compile: Callable[[ConvNeXt, torch.dtype, int, Sequence[int]], None]


TRITON = Kernels(launch_kernel, launch_norm, compile_kernels)


class CudaRuntime:
    """Takes over ``network``, which takes pixels from 0 to 255; see ``Runtime``.

    Two threads may call ``run``: each uses one of two slots, which have their own stream, buffers and graphs, so that
    one batch is copied while the other is computed. Slots belong to no thread: threads may come and go.
    Until ``tune`` has proved faster paths, and where it drops them, the network runs eagerly, or compiled.
    """

    batch_size_step = 2
    concurrency = 2

    def __init__(
        self,
        network: ConvNeXt,
        gpu: Gpu,
        dtype: torch.dtype,
        input_size: int,
        max_batch_size: int,
        *,
        compiled: bool,
        kernels: Kernels = TRITON,
    ) -> None:
        self._exact: ConvNeXt | None = copy.deepcopy(network)
        self._gpu = gpu
        self._dtype = dtype
        self._input_size = input_size
        self._kernels = kernels
        self._depthwise = DepthwiseNorm(kernels.depthwise)
        self._network = PreciseHead(network, gpu.device, dtype)
        self._paths = [] if compiled else available_paths(network, input_size)
        self._eager = Candidate(self._network)
        if compiled:
            self._eager = Candidate(compiled_for_each_size(self._network), paths=("compiled",))
        self._chosen: Choice = {}  # other batch sizes run eagerly
        self._comparison: Comparison | None = None
        classes = network.config.num_classes
        self._slots = [Slot(gpu, max_batch_size, input_size, classes) for _ in range(self.concurrency)]
        self._free_slots: queue.LifoQueue[Slot] = queue.LifoQueue()
        for slot in self._slots:
            self._free_slots.put(slot)
        gpu.synchronize()  # the weights were converted on another stream

    @property
    def mode(self) -> str:
        """The paths of the largest batch, for example graphs+patches+depthwise; eager if there are none."""
        return "+".join(self._candidate(max(self._chosen, default=0)).paths) or "eager"

    @property
    def tiles(self) -> dict[tuple[int, ...], tuple[int, ...]]:
        """The tiles of the depthwise kernel by the shape ``(N, H, W, C)`` of its input; see ``Tile``."""
        return {shape: tuple(tile) for shape, tile in self._depthwise.tiles.items()}

    def tune(self, images: Sequence[Pixels], sizes: Sequence[int], decode_s: float) -> None:
        """Chooses the fastest paths that are right, and captures a graph for each size and slot if graphs are."""
        self._forget_graphs()
        if self._comparison is None:
            with logged("reference"):
                comparison = Comparison(self._slots[0], images, self._expected(images))
            if "depthwise" in self._paths:
                with logged("compiling kernels"), self._slots[0].stream.active():
                    self._kernels.compile(self._exact_network(), self._dtype, self._input_size, measured_sizes(sizes))
            with logged("choosing paths"):
                self._chosen = self._choose(comparison, sizes)
            # If memory is short before, it is all done again with fewer images.
            self._comparison, self._exact = comparison, None
        self._forget_graphs()
        self._chosen = {size: self._candidate(size) for size in sizes}
        with logged("recording graphs"):
            reason = self._capture(self._comparison)
        if reason:
            logger.warning("not using %s: %s", self.mode, reason)
            self._forget_graphs()
            self._chosen = {}

    def run(self, images: Sequence[Pixels], size: int, *, idle: bool, features: bool = False) -> Outputs:
        """Computes N images ``(H, W, 3)`` uint8 as a batch of ``size``."""
        slot = self._free_slots.get()
        try:
            return slot.run(images, size, self._candidate(size).forward, features=features)
        finally:
            self._free_slots.put(slot)

    def _expected(self, images: Sequence[Pixels]) -> Outputs:
        exact = PreciseHead(copy.deepcopy(self._exact_network()), self._gpu.device, torch.float32)
        self._gpu.synchronize()
        return reference_outputs(self._slots[0], exact, images)

    def _candidate(self, size: int) -> Candidate:
        return self._chosen.get(size, self._eager)

    def _choose(self, comparison: Comparison, sizes: Sequence[int]) -> Choice:
        measured = measured_sizes(sizes)
        comparison.calibrate(self._eager, measured)
        with_graphs = replace(self._eager, graphs=True, paths=("graphs", *self._eager.paths))
        best = dict.fromkeys(measured, self._eager)
        best = comparison.better(best, "graphs", lambda: dict.fromkeys(measured, with_graphs), _GRAPHS_TOLERANCE)
        for path in self._paths:
            possible = {size: best[size] for size in measured if path != "residual" or "depthwise" in best[size].paths}
            if possible:
                best |= comparison.better(possible, path, partial(self._add, path, possible))
        self._depthwise.extend(sizes)
        return {size: best[nearest_size(measured, size)] for size in sizes}

    def _add(self, path: str, current: Choice) -> Choice:
        """The candidates of ``current`` with ``path``; those with the same paths share their weights."""
        fused = {candidate: self._fuse(candidate, path) for candidate in set(current.values())}
        self._gpu.synchronize()
        if path == "depthwise":
            for size, candidate in current.items():
                self._choose_tiles(cast(FusedConvNeXt, fused[candidate].forward), size)
        return {size: fused[candidate] for size, candidate in current.items()}

    def _fuse(self, candidate: Candidate, path: str) -> Candidate:
        paths, network = (*candidate.paths, path), self._network.network
        forward = FusedConvNeXt(
            network, self._exact_network(), self._dtype, frozenset(paths), self._depthwise, self._kernels.norm
        )
        return replace(candidate, forward=forward, paths=paths)

    def _choose_tiles(self, forward: FusedConvNeXt, size: int) -> None:
        slot = self._slots[0]
        with torch.inference_mode(), slot.stream.active():
            forward.visit_depthwise(slot.pixels[:size], partial(self._depthwise.tune, slot.stream))

    def _capture(self, comparison: Comparison) -> str:
        """Captures and checks all graphs, the largest first, whose memory the others share; returns why it cannot."""
        try:
            for size, slot in itertools.product(sorted(self._chosen, reverse=True), self._slots):
                candidate = self._chosen[size]
                if candidate.graphs:
                    slot.capture(size, candidate.forward)
                if not comparison.is_right(slot, size, candidate):
                    return f"the result of a batch of {size} deviates"
        except Exception as error:
            if is_out_of_memory(error):
                raise
            return f"a batch of {size} fails:\n{traceback.format_exc()}"
        return ""

    def _forget_graphs(self) -> None:
        for slot in self._slots:
            slot.forget_all()

    def _exact_network(self) -> ConvNeXt:
        assert self._exact is not None  # noqa: S101 - it is dropped once the paths are chosen
        return self._exact
