"""A slot on a fake GPU: when a batch is recorded, and when its graph is launched."""

import numpy as np
import torch

from model.inference.cuda.slot import Forward, Slot
from tests.model.inference.cuda.fake_gpu import FakeGpu

IMAGES = list(np.zeros((2, 8, 8, 3), np.uint8))


def constant(value: float) -> Forward:
    return lambda pixels: (torch.full((len(pixels), 1), value), torch.zeros(len(pixels), 1, 1, 1))


def test_a_graph_computes_only_what_it_has_recorded() -> None:
    gpu = FakeGpu()
    slot = Slot(gpu, 2, 8, 1)
    recorded, other = constant(1.0), constant(2.0)
    slot.capture(2, recorded)
    slot.capture(2, recorded)
    assert gpu.captures == 1
    assert slot.run(IMAGES, 2, other).logits.tolist() == [[2.0], [2.0]]
    assert slot.run(IMAGES, 2, recorded).logits.tolist() == [[1.0], [1.0]]
    assert gpu.launches == 1


def test_a_batch_is_run_before_it_is_recorded() -> None:
    """Libraries load kernels and allocate workspaces on first use, which fails while a graph is recorded."""
    gpu = FakeGpu()
    waits: list[int] = []
    gpu.on_capture = lambda stream: waits.append(stream.waits)
    Slot(gpu, 2, 8, 1).capture(2, constant(1.0))
    assert waits == [1]
