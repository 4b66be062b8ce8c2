"""The CUDA runtime on a fake GPU: which paths it uses, its graphs and buffers, and what it does about failures."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import Tensor

from model.errors import DeviceLost, EngineError
from model.images.transform import Pixels
from model.inference.cuda.depthwise import DepthwiseWeights, Launch, Tile
from model.inference.cuda_runtime import CudaRuntime
from model.inference.warm_up import warm_up
from tests.model.inference.conftest import folded
from tests.model.inference.cuda.fake_gpu import IN_TORCH, FakeGpu, FakeStream, launch_in_torch

SIZES = [1, 2, 4]


@pytest.fixture
def images() -> list[Pixels]:
    return list(np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8))


def ever_faster() -> FakeGpu:
    """A GPU on which whatever is measured later is faster."""
    gpu = FakeGpu()
    falling = iter(range(10_000, 0, -1))
    gpu.cost = lambda: float(next(falling))
    return gpu


def runtime_on(gpu: FakeGpu, dtype: torch.dtype = torch.float32, launch: Launch = launch_in_torch) -> CudaRuntime:
    return CudaRuntime(folded(), gpu, dtype, 32, 4, compiled=False, kernels=IN_TORCH._replace(depthwise=launch))


def expected_logits(images: list[Pixels]) -> Tensor:
    with torch.inference_mode():
        logits: Tensor = folded()(torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float())
    return logits


def assert_right(runtime: CudaRuntime, images: list[Pixels], tolerance: float = 1e-4) -> None:
    for size in SIZES:
        for count in range(1, size + 1):
            outputs = runtime.run(images[:count], size, idle=False, features=True)
            expected = expected_logits(images[:count]).numpy()
            np.testing.assert_allclose(outputs.logits, expected, atol=tolerance)
            assert outputs.features is not None
            assert outputs.features.shape == (count, 16, 4, 4)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float16, 5e-3), (torch.bfloat16, 5e-2)])
def test_all_paths_are_used_if_they_are_right_and_faster(
    images: list[Pixels], dtype: torch.dtype, tolerance: float
) -> None:
    runtime = runtime_on(ever_faster(), dtype)
    assert runtime.mode == "eager"
    assert_right(runtime, images, tolerance)
    runtime.tune(images, SIZES, 1.0)
    assert runtime.mode == "graphs+patches+depthwise+gelu+residual+norms"
    assert_right(runtime, images, tolerance)


def test_nothing_is_used_that_is_slower(images: list[Pixels]) -> None:
    gpu = FakeGpu(graph_speedup=0.5)
    rising = iter(range(1, 10_000))
    gpu.cost = lambda: float(next(rising))
    runtime = runtime_on(gpu)
    runtime.tune(images, SIZES, 1.0)
    assert runtime.mode == "eager"
    assert_right(runtime, images)


def test_graphs_are_used_although_they_save_the_device_no_time(images: list[Pixels]) -> None:
    """They save the host many launches."""
    gpu = FakeGpu(graph_speedup=0.99)
    gpu.cost = lambda: 1.0
    runtime = runtime_on(gpu)
    runtime.tune(images, SIZES, 1.0)
    assert runtime.mode == "graphs"


def test_a_kernel_that_deviates_is_not_used(images: list[Pixels], caplog: pytest.LogCaptureFixture) -> None:
    def launch(x: Tensor, weights: DepthwiseWeights, out: Tensor, tile: Tile) -> None:
        launch_in_torch(x, weights, out, tile)
        out[:, 0, 0] += 3

    runtime = runtime_on(ever_faster(), launch=launch)
    runtime.tune(images, SIZES, 1.0)
    assert runtime.mode == "graphs+patches+gelu+norms"
    assert len([record for record in caplog.records if "depthwise" in record.getMessage()]) == 1
    assert_right(runtime, images)


@pytest.mark.parametrize(("sizes", "mode"), [([1, 2, 4], "graphs+patches+gelu+norms"), ([1, 2, 3, 4], "eager")])
def test_a_kernel_that_deviates_at_one_size_only_is_not_used(images: list[Pixels], sizes: list[int], mode: str) -> None:
    """Three sizes are measured; a deviation at another shows when its graph is checked."""

    def launch(x: Tensor, weights: DepthwiseWeights, out: Tensor, tile: Tile) -> None:
        launch_in_torch(x, weights, out, tile)
        if len(x) == 2:
            out.add_(3)

    runtime = runtime_on(ever_faster(), launch=launch)
    runtime.tune(images, sizes, 1.0)
    assert runtime.mode == mode
    assert_right(runtime, images)


def test_a_path_is_used_for_the_batch_sizes_at_which_it_is_faster(images: list[Pixels]) -> None:
    gpu, launched = FakeGpu(), set[int]()

    def launch(x: Tensor, weights: DepthwiseWeights, out: Tensor, tile: Tile) -> None:
        launch_in_torch(x, weights, out, tile)
        launched.add(len(x))

    gpu.before_measurement = launched.clear
    gpu.cost = lambda: 100.0 + sum(1 if size == 1 else -1 for size in launched)
    runtime = runtime_on(gpu, launch=launch)
    runtime.tune(images, SIZES, 1.0)
    launched.clear()
    assert_right(runtime, images)
    assert launched == {2, 4}
    assert runtime.mode == "graphs+depthwise"


@pytest.mark.parametrize(
    "error", [ImportError("no triton"), RuntimeError("ptxas failed"), torch.OutOfMemoryError("no room")], ids=str
)
def test_a_kernel_that_fails_is_not_used(
    images: list[Pixels], error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    def launch(x: Tensor, weights: DepthwiseWeights, out: Tensor, tile: Tile) -> None:
        raise error

    runtime = runtime_on(ever_faster(), launch=launch)
    runtime.tune(images, SIZES, 1.0)
    assert runtime.mode == "graphs+patches+gelu+norms"
    (reason,) = (text for text in caplog.messages if text.startswith("not using depthwise"))
    assert "Traceback" in reason
    assert str(error) in reason
    assert_right(runtime, images)


def test_a_tile_that_fails_is_not_used(images: list[Pixels]) -> None:
    def launch(x: Tensor, weights: DepthwiseWeights, out: Tensor, tile: Tile) -> None:
        if tile.columns != 8:
            raise RuntimeError("out of resource: shared memory")
        launch_in_torch(x, weights, out, tile)

    gpu = ever_faster()
    kernels = IN_TORCH._replace(depthwise=launch)
    runtime = CudaRuntime(folded(), gpu, torch.float32, 32, 1, compiled=False, kernels=kernels)
    runtime.tune(images[:1], [1], 1.0)
    assert "depthwise" in runtime.mode
    assert {tile[1] for tile in runtime.tiles.values()} == {8}


def test_graphs_that_cannot_be_captured_are_not_used(images: list[Pixels]) -> None:
    gpu = ever_faster()
    gpu.capture_error = torch.AcceleratorError("CUDA error: operation not permitted when stream is capturing")
    runtime = runtime_on(gpu)
    runtime.tune(images, SIZES, 1.0)
    assert "graphs" not in runtime.mode
    assert_right(runtime, images)


def test_a_graph_that_cannot_be_captured_at_an_unmeasured_size_leaves_the_eager_network(
    images: list[Pixels], caplog: pytest.LogCaptureFixture
) -> None:
    """As a kernel may need more than the device has for some sizes only."""

    def launch(x: Tensor, weights: DepthwiseWeights, out: Tensor, tile: Tile) -> None:
        launch_in_torch(x, weights, out, tile)
        if len(x) == 2:
            raise RuntimeError("out of resource: shared memory")

    runtime = runtime_on(ever_faster(), launch=launch)
    warm_up(runtime, images, [1, 2, 3, 4], 1.0)
    assert runtime.mode == "eager"
    assert "out of resource" in caplog.text
    assert_right(runtime, images)


def test_a_device_that_a_failing_path_destroys_is_lost(images: list[Pixels]) -> None:
    """Nothing may be served by a device on which even the eager network fails."""
    lost = torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
    gpu = ever_faster()

    def launch(x: Tensor, weights: DepthwiseWeights, out: Tensor, tile: Tile) -> None:
        gpu.work_error = lost
        raise lost

    with pytest.raises(DeviceLost):
        warm_up(runtime_on(gpu, launch=launch), images, SIZES, 1.0)


def test_every_size_has_a_graph_in_every_slot(images: list[Pixels]) -> None:
    gpu = ever_faster()
    runtime = runtime_on(gpu)
    runtime.tune(images, SIZES, 1.0)
    assert gpu.synchronizations > 0
    before = gpu.captures
    gpu.launches = 0
    both = threading.Barrier(2)

    def meet() -> None:
        both.wait(timeout=10)

    gpu.before_launch = meet
    with ThreadPoolExecutor(2) as threads:
        for size in SIZES:
            list(threads.map(lambda _, size=size: runtime.run(images[:size], size, idle=False), range(2)))
    assert (gpu.launches, gpu.captures) == (2 * len(SIZES), before)


def test_streams_and_pinned_buffers_do_not_grow_with_sizes_and_threads(images: list[Pixels]) -> None:
    gpu = ever_faster()
    runtime = runtime_on(gpu)
    warm_up(runtime, images, SIZES, 1.0)
    for _ in range(5):
        with ThreadPoolExecutor(4) as threads:
            list(threads.map(lambda _: runtime.run(images, 4, idle=False), range(8)))
    assert len(gpu.streams) == runtime.concurrency == 2
    assert gpu.pinned_buffers == 2 * 2  # pixels and logits


def test_concurrent_calls_get_their_own_results(images: list[Pixels]) -> None:
    runtime = runtime_on(ever_faster())
    runtime.tune(images, SIZES, 1.0)
    expected = expected_logits(images).numpy()
    with ThreadPoolExecutor(4) as threads:
        rows = list(threads.map(lambda i: runtime.run([images[i % 4]], 1, idle=False).logits[0], range(40)))
    np.testing.assert_allclose(np.stack(rows), np.tile(expected, (10, 1)), atol=1e-4)


def test_a_result_is_not_overwritten_by_the_next(images: list[Pixels]) -> None:
    runtime = runtime_on(ever_faster())
    runtime.tune(images, SIZES, 1.0)
    first = runtime.run(images[:1], 1, idle=False, features=True)
    copies = [array.copy() for array in first if array is not None]
    runtime.run(images[1:2], 1, idle=False, features=True)
    for array, copy in zip(first, copies, strict=True):
        np.testing.assert_array_equal(array, copy)


def test_memory_that_graphs_need_lowers_the_batch_size(images: list[Pixels]) -> None:
    gpu = ever_faster()
    runtime = runtime_on(gpu)

    failures = iter([torch.OutOfMemoryError("no room")])

    def no_room(stream: FakeStream) -> None:
        if stream is gpu.streams[1] and (error := next(failures, None)) is not None:
            raise error

    gpu.on_capture = no_room
    seconds = warm_up(runtime, images, SIZES, 1.0)
    assert list(seconds) == [1, 2]
    assert "graphs" in runtime.mode


def test_paths_are_chosen_with_fewer_images_if_memory_is_short(images: list[Pixels]) -> None:
    gpu = ever_faster()
    runtime = runtime_on(gpu)
    failures = iter([None] * 3 + [torch.OutOfMemoryError("no room")] * 2)  # of the second path, then of the first again

    def no_room(stream: FakeStream) -> None:
        if (error := next(failures, None)) is not None:
            raise error

    gpu.on_capture = no_room
    seconds = warm_up(runtime, images, SIZES, 1.0)
    assert list(seconds) == [1, 2]
    assert runtime.mode == "graphs+patches+depthwise+gelu+residual+norms"


def test_a_slot_is_free_again_after_an_error(images: list[Pixels]) -> None:
    gpu = FakeGpu()
    runtime = runtime_on(gpu)
    gpu.work_error = RuntimeError("a bug")
    for _ in range(3):
        with pytest.raises(RuntimeError, match="a bug"):
            runtime.run(images, 4, idle=False)
    gpu.work_error = None
    assert_right(runtime, images)


def test_an_error_of_the_weights_is_found_before_tuning(images: list[Pixels]) -> None:
    network = folded()
    network.head.fc.weight[0, 0] = float("nan")
    runtime = CudaRuntime(network, FakeGpu(), torch.float16, 32, 4, compiled=False, kernels=IN_TORCH)
    with pytest.raises(EngineError, match="finite"):
        warm_up(runtime, images, SIZES, 1.0)
