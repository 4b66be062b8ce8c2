"""How much of a batch's time passes on the host: convnext_tiny by all paths, on one to three slots.

``graphs alone`` launches the graphs of batches that are in the pinned memory already, which is what the GPU can do.
``whole`` also fills that memory and reads the results. If that is slower, and three slots are faster than the engine's
two, the host's part is the limit.
"""

from collections.abc import Callable
from copy import deepcopy
from functools import partial

import torch

from benchmarks.gpu.step import batch_of, build, start
from benchmarks.rounds import calls_per_second
from model.checkpoints.load import LoadedModel
from model.inference.cuda.compilation import compile_kernels
from model.inference.cuda.depthwise import DepthwiseNorm
from model.inference.cuda.fused import FusedConvNeXt, available_paths
from model.inference.cuda.gpu import CudaGpu, Gpu
from model.inference.cuda.slot import Forward, Slot
from model.inference.fold import fold
from model.inference.precise_head import PreciseHead

SLOTS = (1, 2, 3)
BATCH_SIZES = (64, 256)
SIDE, CLASSES = 224, 1000
SECONDS = 1.0


def fused(model: LoadedModel, gpu: Gpu) -> Forward:
    """The network in float16 by all paths, with the first tile of each layer."""
    exact, dtype = fold(model.network, model.transform), torch.float16
    with torch.cuda.device(gpu.device):
        compile_kernels(exact, dtype, SIDE, BATCH_SIZES)
    network = PreciseHead(deepcopy(exact), gpu.device, dtype).network
    return FusedConvNeXt(network, exact, dtype, frozenset(available_paths(exact, SIDE)), DepthwiseNorm())


def rates(gpu: Gpu, forward: Forward, size: int) -> dict[str, list[float]]:
    """By what is done, for each number of slots."""
    slots = [Slot(gpu, size, SIDE, CLASSES) for _ in range(max(SLOTS))]
    gpu.synchronize()
    images = list(batch_of(size))

    def launch(slot: Slot) -> None:
        with torch.inference_mode(), slot.stream.active():
            slot.launch(size, forward)
            slot.stream.wait()

    for slot in slots:
        slot.capture(size, forward)
    works: dict[str, Callable[[Slot], object]] = {
        "graphs alone": launch,
        "whole": lambda slot: slot.run(images, size, forward),
    }
    return {
        name: [size * calls_per_second([partial(work, slot) for slot in slots[:count]], SECONDS) for count in SLOTS]
        for name, work in works.items()
    }


def main() -> None:
    options, results = start(__doc__)
    if options.torch_device.type != "cuda":
        results.add("skipped", "there is no CUDA device")
        return
    gpu = CudaGpu(options.torch_device)
    forward = fused(build("tiny")[0], gpu)
    for size in BATCH_SIZES:
        results.add(f"batch {size}, images per second by slots {SLOTS}", rates(gpu, forward, size))


if __name__ == "__main__":
    main()
