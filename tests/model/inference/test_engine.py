"""The engine compared with torchvision, and with a fake runtime that fails."""

import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.models.convnext import CNBlockConfig
from torchvision.models.convnext import ConvNeXt as TorchvisionConvNeXt

from model import LoadedModel, load_model
from model.errors import DeviceLost, EngineError
from model.images.transform import Pixels
from model.inference.batch_plan import plan_batches
from model.inference.engine import InferenceEngine, Precision, RuntimeName
from model.inference.runtime import Outputs
from tests.model.conftest import randomize
from tests.model.inference.conftest import EngineOn
from tests.model.inference.fake_runtime import FakeRuntime

RUNTIMES: tuple[RuntimeName, ...] = ("torch", "openvino")
Images = Callable[..., list[Pixels]]


@pytest.fixture
def random_images() -> Images:
    """``random_images(count, size)``: images of uint8 noise."""
    return lambda count, size=32: list(np.random.default_rng(0).integers(0, 256, (count, size, size, 3), np.uint8))


def expected_classes(images: list[Pixels]) -> list[int]:
    return [0 if image[0, 0, 0] > 127 else 1 for image in images]


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_logits_equal_those_of_torchvision(tmp_path: Path, random_images: Images, runtime: RuntimeName) -> None:
    blocks = [CNBlockConfig(16, 32, 1), CNBlockConfig(32, None, 2)]
    reference = randomize(TorchvisionConvNeXt(blocks, num_classes=50))
    torch.save(reference.state_dict(), tmp_path / "network.pth")
    model = load_model(tmp_path / "network.pth")
    transform = replace(model.transform, resize_size=64, crop_size=64)
    images = random_images(3, 64)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (transform.mean, transform.std))
    normalized = (torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2) / 255 - mean) / std
    with torch.inference_mode():
        expected = reference(normalized).numpy()
    engine = InferenceEngine(replace(model, transform=transform), device="cpu", runtime=runtime, precision="float32")
    logits = engine.predict(images)
    assert logits.shape == (3, 50)
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, expected, atol=1e-3)
    assert expected.std() > 0.1


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_an_image_gets_the_same_logits_in_any_batch(
    tiny_model: LoadedModel, random_images: Images, runtime: RuntimeName
) -> None:
    engine = InferenceEngine(tiny_model, device="cpu", runtime=runtime, max_batch_size=8)
    images = random_images(7)
    together = engine.predict(images)
    for row, image in enumerate(images):
        np.testing.assert_allclose(engine.predict([image])[0], together[row], atol=1e-4)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_result_is_not_overwritten_by_the_next(
    tiny_model: LoadedModel, random_images: Images, runtime: RuntimeName
) -> None:
    engine = InferenceEngine(tiny_model, device="cpu", runtime=runtime)
    first, second = random_images(2)
    logits = engine.predict([first])
    before = logits.copy()
    engine.predict([second])
    assert np.array_equal(logits, before)


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_concurrent_calls_get_their_own_results(tiny_model: LoadedModel, random_images: Images, threads: int) -> None:
    engine = InferenceEngine(
        tiny_model, device="cpu", runtime="openvino", precision="float32", max_batch_size=4, threads=threads
    )
    engine.warm_up()
    assert 1 <= engine.concurrency <= threads
    images = random_images(60)
    expected = np.concatenate([engine.predict([image]) for image in images])
    with ThreadPoolExecutor(engine.concurrency) as workers:
        parts = list(workers.map(lambda first: engine.predict(images[first : first + 3]), range(0, 60, 3)))
    np.testing.assert_allclose(np.concatenate(parts), expected, atol=1e-4)


@pytest.mark.parametrize(("step", "sizes"), [(1, [1, 2, 3, 4, 5, 6]), (2, [1, 2, 4, 6]), (4, [1, 4, 6])])
def test_only_a_few_sizes_are_used_if_each_is_compiled_and_else_all(
    engine_on: EngineOn, random_images: Images, step: int, sizes: list[int]
) -> None:
    runtime = FakeRuntime(step)
    engine = engine_on(runtime, max_batch_size=6)
    engine.warm_up()
    assert sorted(set(runtime.sizes)) == sorted(engine.batch_seconds) == sizes
    assert all(seconds > 0 for seconds in engine.batch_seconds.values())
    for count in range(1, 7):
        runtime.sizes.clear()
        images = random_images(count)
        logits = engine.predict(images)
        assert set(runtime.sizes) <= set(sizes)
        assert logits.argmax(1).tolist() == expected_classes(images)  # padding is not part of the result


@pytest.mark.parametrize(
    ("seconds", "plans"),
    [
        ({1: 1, 4: 1, 8: 1}, {1: (1,), 2: (4,), 4: (4,), 5: (8,), 8: (8,)}),  # larger batches cost nothing: pad
        ({1: 1, 4: 4.1, 8: 8.2}, {2: (1, 1), 4: (1, 1, 1, 1), 7: (1,) * 7}),  # they gain nothing: split
        ({1: 2, 4: 5, 8: 8}, {1: (1,), 2: (1, 1), 3: (4,), 6: (8,), 7: (8,), 8: (8,)}),
    ],
)
def test_images_are_padded_or_split_whichever_was_measured_to_be_faster(
    seconds: dict[int, float], plans: dict[int, tuple[int, ...]]
) -> None:
    found = plan_batches(seconds)
    assert {count: found[count] for count in plans} == plans


@pytest.mark.parametrize("room", [4, 1000])
def test_features_belong_to_their_images_in_padded_split_and_halved_batches(
    engine_on: EngineOn, random_images: Images, room: int
) -> None:
    engine = engine_on(FakeRuntime(4, room), max_batch_size=8)
    images = random_images(7)
    logits, features = engine.predict_with_features(images)
    assert logits.argmax(1).tolist() == expected_classes(images)
    assert features.flatten().tolist() == [image[0, 0, 0] for image in images]


def test_the_expected_rate_counts_all_workers(engine_on: EngineOn) -> None:
    engine = engine_on(FakeRuntime(concurrency=3))
    assert engine.expected_rate == 0
    engine.batch_seconds = {1: 0.1, 8: 0.4}
    assert engine.expected_rate == pytest.approx(60)


@pytest.mark.parametrize("idle", [True, False])
def test_the_runtime_is_told_whether_the_server_is_idle(engine_on: EngineOn, random_images: Images, idle: bool) -> None:
    runtime = FakeRuntime()
    engine = engine_on(runtime)
    engine.predict(random_images(1), idle=idle)
    engine.predict_with_features(random_images(1), idle=idle)
    assert runtime.idle == [idle, idle]


def test_measurements_follow_real_batches(engine_on: EngineOn, random_images: Images) -> None:
    engine = engine_on(FakeRuntime())
    engine.warm_up()
    engine.batch_seconds[1] = 100.0
    for _ in range(200):
        engine.predict(random_images(1))
    assert engine.batch_seconds[1] < 1


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_weights_that_are_not_finite_are_an_error(tiny_path: Path, runtime: RuntimeName, value: float) -> None:
    model = load_model(tiny_path)
    with torch.no_grad():
        model.network.head.fc.weight[0, 0] = value
    with pytest.raises(EngineError):
        InferenceEngine(model, device="cpu", runtime=runtime, max_batch_size=1).warm_up()


def test_a_batch_that_does_not_fit_into_memory_is_run_in_halves_once(
    engine_on: EngineOn, random_images: Images
) -> None:
    runtime = FakeRuntime(room=4)
    engine = engine_on(runtime, max_batch_size=20)
    images = random_images(8)
    assert engine.predict(images).argmax(1).tolist() == expected_classes(images)
    assert runtime.sizes == [8, 4, 4]
    with pytest.raises(torch.OutOfMemoryError):
        engine.predict(random_images(20))


LOST = [
    torch.AcceleratorError("CUDA error: an illegal memory access was encountered"),
    RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
]


@pytest.mark.parametrize("error", LOST, ids=str)
@pytest.mark.parametrize(("room", "sizes"), [(8, [8]), (4, [8, 4])], ids=["whole batch", "halves"])
def test_an_error_of_the_device_means_that_it_is_lost(
    engine_on: EngineOn, random_images: Images, error: Exception, room: int, sizes: list[int]
) -> None:
    runtime = FakeRuntime(room=room)
    engine = engine_on(runtime, max_batch_size=8)
    runtime.error = error
    with pytest.raises(DeviceLost, match=str(error)):
        engine.predict(random_images(8))
    assert runtime.sizes == sizes


def test_the_activations_of_a_batch_that_does_not_fit_are_freed_before_the_halves_run(
    engine_on: EngineOn, random_images: Images
) -> None:
    alive: list[bool] = []
    activations: list[weakref.ref[torch.Tensor]] = []

    class Runtime(FakeRuntime):
        def run(self, images: Sequence[Pixels], size: int, *, idle: bool, features: bool = False) -> Outputs:
            alive.extend(reference() is not None for reference in activations)
            hidden = torch.zeros(size)
            activations.append(weakref.ref(hidden))
            return super().run(images, size, idle=idle, features=features)

    engine_on(Runtime(room=4), max_batch_size=8).predict(random_images(8))
    assert alive == [False, False, False]


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_an_image_whose_result_is_not_finite_leaves_those_of_its_batch_alone(
    engine_on: EngineOn, random_images: Images, precision: Precision
) -> None:
    images = random_images(3)

    class Overflowing(FakeRuntime):
        def run(self, images: Sequence[Pixels], size: int, *, idle: bool, features: bool = False) -> Outputs:
            outputs = super().run(images, size, idle=idle, features=features)
            outputs.logits[1] = np.inf
            return outputs

    logits = engine_on(Overflowing(), precision=precision).predict(images)
    assert np.isfinite(logits).all(1).tolist() == [True, False, True]


def test_other_errors_are_passed_on(engine_on: EngineOn, random_images: Images) -> None:
    runtime = FakeRuntime()
    engine = engine_on(runtime)
    runtime.error = ZeroDivisionError("a bug")
    with pytest.raises(ZeroDivisionError):
        engine.predict(random_images(1))
