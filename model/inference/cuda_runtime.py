"""CudaRuntime: the folded network on a CUDA device, by the fastest paths that are proved on it."""

import copy
import logging
import queue
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch

from model.convnext import ConvNeXt
from model.images.transform import Pixels
from model.inference.compilation import compiled_for_each_size
from model.inference.cuda.compilation import compile_kernels
from model.inference.cuda.depthwise import DepthwiseNorm, Launch, launch_kernel
from model.inference.cuda.fused import FusedConvNeXt, available_paths
from model.inference.cuda.gpu import Gpu
from model.inference.cuda.norm import NormLaunch, launch_norm
from model.inference.cuda.paths import Candidate, Proof, reference_outputs
from model.inference.cuda.slot import Slot
from model.inference.precise_head import PreciseHead
from model.inference.runtime import Outputs
from model.inference.timing import logged

logger = logging.getLogger(__name__)


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
        self._chosen = self._eager
        self._proof: Proof | None = None
        classes = network.config.num_classes
        self._slots = [Slot(gpu, max_batch_size, input_size, classes) for _ in range(self.concurrency)]
        self._free_slots: queue.LifoQueue[Slot] = queue.LifoQueue()
        for slot in self._slots:
            self._free_slots.put(slot)
        gpu.synchronize()  # the weights were converted on another stream

    @property
    def mode(self) -> str:
        """The names of the paths in use, for example graphs+patches+depthwise; eager if there are none."""
        return "+".join(self._chosen.paths) or "eager"

    @property
    def tiles(self) -> dict[tuple[int, ...], tuple[int, ...]]:
        """The tiles of the depthwise kernel by the shape ``(N, H, W, C)`` of its input; see ``Tile``."""
        return {shape: tuple(tile) for shape, tile in self._depthwise.tiles.items()}

    def tune(self, images: Sequence[Pixels], sizes: Sequence[int], decode_s: float) -> None:
        """Chooses the fastest paths that are right, and captures a graph for each size and slot if graphs are."""
        if self._proof is None:
            with logged("reference"):
                proof = Proof(self._slots[0], images, (sizes[0], sizes[-1]), self._expected(images))
            if "depthwise" in self._paths:
                with logged("compiling kernels"), self._slots[0].stream.active():
                    self._kernels.compile(self._exact_network(), self._dtype, self._input_size, _measured(sizes))
            with logged("choosing paths"):
                self._chosen = self._choose(proof, sizes)
            self._proof, self._exact = proof, None  # if memory is short before, it is all done again with less
        for slot in self._slots:
            slot.forget()
        with logged("recording graphs"):
            right = self._capture(self._proof, sizes)
        if not right:
            logger.warning("not using %s: the result of a graph deviates", self.mode)
            self._chosen = self._eager
            for slot in self._slots:
                slot.forget()

    def run(self, images: Sequence[Pixels], size: int, *, idle: bool, features: bool = False) -> Outputs:
        """Computes N images ``(H, W, 3)`` uint8 as a batch of ``size``."""
        slot = self._free_slots.get()
        try:
            return slot.run(images, size, self._chosen.forward, features=features)
        finally:
            self._free_slots.put(slot)

    def _expected(self, images: Sequence[Pixels]) -> Outputs:
        exact = PreciseHead(copy.deepcopy(self._exact_network()), self._gpu.device, torch.float32)
        self._gpu.synchronize()
        return reference_outputs(self._slots[0], exact, images)

    def _choose(self, proof: Proof, sizes: Sequence[int]) -> Candidate:
        proof.accept(self._eager)
        with_graphs = replace(self._eager, graphs=True, paths=("graphs", *self._eager.paths))
        best = proof.better(self._eager, "graphs", lambda: with_graphs)
        for path in self._paths:
            if path != "residual" or "depthwise" in best.paths:
                fused = replace(best, paths=(*best.paths, path))
                best = proof.better(best, path, lambda fused=fused: self._fuse(fused, sizes))  # type: ignore[misc]  # the default only binds
        return best

    def _fuse(self, candidate: Candidate, sizes: Sequence[int]) -> Candidate:
        """``candidate`` with the forward pass that its paths name."""
        network, paths = self._network.network, frozenset(candidate.paths)
        forward = FusedConvNeXt(network, self._exact_network(), self._dtype, paths, self._depthwise, self._kernels.norm)
        self._gpu.synchronize()
        if candidate.paths[-1] == "depthwise":
            with logged("choosing tiles"):
                self._choose_tiles(forward, sizes)
        return replace(candidate, forward=forward)

    def _choose_tiles(self, forward: FusedConvNeXt, sizes: Sequence[int]) -> None:
        slot = self._slots[0]
        with torch.inference_mode(), slot.stream.active():
            for size in _measured(sizes):
                forward.visit_depthwise(slot.pixels[:size], partial(self._depthwise.tune, slot.stream))
        self._depthwise.extend(sizes)

    def _capture(self, proof: Proof, sizes: Sequence[int]) -> bool:
        """Captures and checks all graphs, the largest first, whose memory the others share."""
        for size in reversed(sizes):
            for slot in self._slots:
                if self._chosen.graphs:
                    slot.capture(size, self._chosen.forward)
                if not proof.is_right(slot, size, self._chosen):
                    return False
        return True

    def _exact_network(self) -> ConvNeXt:
        assert self._exact is not None  # noqa: S101 - it is dropped once the paths are chosen
        return self._exact


def _measured(sizes: Sequence[int]) -> list[int]:
    """The batch sizes for which tiles are measured."""
    return sorted({sizes[0], sizes[len(sizes) // 2], sizes[-1]})
