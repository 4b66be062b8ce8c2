"""The engine against torchvision's network, on a fake runtime where memory or device give out, and in its choices."""

import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from torchvision.models.convnext import CNBlockConfig
from torchvision.models.convnext import ConvNeXt as TorchvisionConvNeXt

from model import load_model
from model.errors import DeviceLost, EngineError
from model.inference.engine import InferenceEngine, available_cores

RUNTIMES = ("torch", "openvino")


@pytest.fixture
def random_images():
    """``random_images(count, size)``: images of uint8 noise."""
    return lambda count, size=32: list(np.random.default_rng(0).integers(0, 256, (count, size, size, 3), np.uint8))


class FakeRuntime:
    """Logits that tell the batch's size and each image apart; it has no memory for more than ``room`` images."""

    def __init__(self, growth: int = 1, room: int = 1000) -> None:
        self.mode, self.growth, self.room = "fake", growth, room
        self.sizes: list[int] = []
        self.error: Exception | None = None

    def logits(self, images: np.ndarray) -> torch.Tensor:
        assert (images.dtype, images.ndim) == (np.uint8, 4)
        self.sizes.append(len(images))
        if len(images) > self.room:
            raise torch.OutOfMemoryError("no room")
        if self.error is not None:
            raise self.error
        first = torch.from_numpy(images[:, 0, 0, 0].astype(np.float32))
        return torch.stack([first, 255 - first, first * 0, first * 0, first * 0], dim=1) / 50


@pytest.fixture
def engine_on(tiny_model, monkeypatch):
    """``engine_on(runtime, **options)``: an engine whose network is computed by a fake."""

    def build(runtime: FakeRuntime, **options) -> InferenceEngine:
        monkeypatch.setattr(InferenceEngine, "_build_runtime", lambda *_arguments: runtime)
        return InferenceEngine(tiny_model, device="cpu", **options)

    return build


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_answers_are_the_softmax_of_torchvisions_logits(tmp_path, randomise, random_images, runtime):
    blocks = [CNBlockConfig(16, 32, 1), CNBlockConfig(32, None, 2)]
    reference = randomise(TorchvisionConvNeXt(blocks, num_classes=50))
    torch.save(reference.state_dict(), tmp_path / "network.pth")
    model = load_model(tmp_path / "network.pth")
    transform = replace(model.transform, resize_size=64, crop_size=64)
    images = random_images(3, 64)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (transform.mean, transform.std))
    normalised = (torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2) / 255 - mean) / std
    with torch.inference_mode():
        expected = reference(normalised).softmax(1).topk(5)
    engine = InferenceEngine(replace(model, transform=transform), device="cpu", runtime=runtime, precision="float32")
    found = engine.predict(images, top_k=5)
    assert found.class_ids.tolist() == expected.indices.tolist()
    np.testing.assert_allclose(found.probabilities, expected.values, atol=1e-4)
    assert found.probabilities[:, 0].max() > 0.05  # far from even


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_an_image_gets_the_same_answer_in_any_batch(tiny_model, random_images, runtime):
    engine = InferenceEngine(tiny_model, device="cpu", runtime=runtime, max_batch_size=8)
    images = random_images(7)
    together = engine.predict(images, top_k=5)
    for row, image in enumerate(images):
        alone = engine.predict([image], top_k=5)
        assert alone.class_ids[0].tolist() == together.class_ids[row].tolist()
        np.testing.assert_allclose(alone.probabilities[0], together.probabilities[row], atol=1e-5)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_an_answer_stays_when_the_next_is_computed(tiny_model, random_images, runtime):
    engine = InferenceEngine(tiny_model, device="cpu", runtime=runtime)
    first, second = random_images(2)
    answer = engine.predict([first], top_k=5)
    before = answer.probabilities.copy(), answer.class_ids.copy()
    engine.predict([second], top_k=5)
    assert np.array_equal(answer.probabilities, before[0])
    assert np.array_equal(answer.class_ids, before[1])


def test_probabilities_fall_and_sum_to_one(tiny_model, random_images):
    top = InferenceEngine(tiny_model, device="cpu").predict(random_images(4), top_k=99)
    assert (top.probabilities.shape, top.probabilities.dtype) == ((4, 5), np.float32)
    assert (top.class_ids.shape, top.class_ids.dtype) == ((4, 5), np.int64)
    assert (np.diff(top.probabilities) <= 0).all()
    np.testing.assert_allclose(top.probabilities.sum(1), 1, atol=1e-6)


@pytest.mark.parametrize(("growth", "sizes"), [(2, [1, 2, 4, 6]), (4, [1, 4, 6])])
def test_only_a_few_sizes_run_where_each_costs_a_compilation(engine_on, random_images, growth, sizes):
    runtime = FakeRuntime(growth)
    engine = engine_on(runtime, max_batch_size=6)
    engine.warm_up()
    assert sorted(set(runtime.sizes)) == sorted(engine.batch_seconds) == sizes
    for count in range(1, 7):
        runtime.sizes.clear()
        images = random_images(count)
        top = engine.predict(images, top_k=2)
        assert set(runtime.sizes) <= set(sizes)
        assert top.class_ids.shape == (count, 2)
        expected = [0 if image[0, 0, 0] > 127 else 1 for image in images]
        assert top.class_ids[:, 0].tolist() == expected  # whatever was padded is not among the answers


@pytest.mark.parametrize(
    ("seconds", "runs"),
    [
        ({1: 1, 4: 1, 8: 1}, {1: (1,), 2: (4,), 4: (4,), 5: (8,), 8: (8,)}),  # the size is free: pad
        ({1: 1, 4: 4.1, 8: 8.2}, {2: (1, 1), 4: (1, 1, 1, 1), 7: (1,) * 7}),  # batching gains nothing: split
        ({1: 2, 4: 5, 8: 8}, {1: (1,), 2: (1, 1), 3: (4,), 5: (4, 1), 6: (8,), 7: (8,), 8: (8,)}),
    ],
)
def test_images_are_padded_or_split_as_was_measured_to_be_fastest(engine_on, random_images, monkeypatch, seconds, runs):
    runtime = FakeRuntime(growth=4)
    engine = engine_on(runtime, max_batch_size=8)
    monkeypatch.setattr(engine, "_measure", lambda images: seconds[len(images)])
    engine.warm_up()
    for count, expected in runs.items():
        runtime.sizes.clear()
        images = random_images(count)
        found = engine.predict(images, top_k=1)
        assert tuple(sorted(runtime.sizes, reverse=True)) == expected
        assert found.class_ids[:, 0].tolist() == [0 if image[0, 0, 0] > 127 else 1 for image in images]


def test_every_size_runs_where_it_costs_nothing(engine_on, random_images):
    runtime = FakeRuntime()
    engine = engine_on(runtime, max_batch_size=5)
    engine.warm_up()
    assert sorted(set(runtime.sizes)) == sorted(engine.batch_seconds) == [1, 2, 3, 4, 5]
    assert all(seconds > 0 for seconds in engine.batch_seconds.values())


@pytest.mark.parametrize(("growth", "room", "expected"), [(1, 5, 5), (2, 5, 4), (2, 3, 2), (1, 1, 1)])
def test_what_memory_does_not_hold_lowers_the_batch_size(engine_on, random_images, caplog, growth, room, expected):
    runtime = FakeRuntime(growth, room)
    engine = engine_on(runtime, max_batch_size=8)
    engine.warm_up()
    assert engine.max_batch_size == expected
    assert f"max_batch_size lowered to {expected}" in caplog.text
    runtime.sizes.clear()
    engine.predict(random_images(expected), top_k=1)
    assert runtime.sizes == [expected]


def test_no_room_for_one_image_is_an_error(engine_on):
    with pytest.raises(EngineError, match="not even one image"):
        engine_on(FakeRuntime(room=0)).warm_up()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_weights_that_are_not_finite_are_refused(tiny_path, runtime, value):
    model = load_model(tiny_path)
    with torch.no_grad():
        model.network.head.fc.weight[0, 0] = value
    with pytest.raises(EngineError, match="no finite result in float32"):
        InferenceEngine(model, device="cpu", runtime=runtime, max_batch_size=1).warm_up()


def test_running_out_of_memory_later_is_passed_on(engine_on, random_images):
    with pytest.raises(torch.OutOfMemoryError):
        engine_on(FakeRuntime(room=1)).predict(random_images(2), top_k=1)


def test_a_broken_device_is_lost(engine_on, random_images):
    runtime = FakeRuntime()
    engine = engine_on(runtime)
    runtime.error = torch.AcceleratorError("an illegal memory access")
    with pytest.raises(DeviceLost, match="cpu is beyond use: an illegal memory access"):
        engine.predict(random_images(1), top_k=1)


def test_other_errors_are_not_the_devices(engine_on, random_images):
    runtime = FakeRuntime()
    engine = engine_on(runtime)
    runtime.error = ZeroDivisionError("a bug")
    with pytest.raises(ZeroDivisionError):
        engine.predict(random_images(1), top_k=1)


@pytest.mark.parametrize(
    ("cuda", "mps", "expected"),
    [(True, True, "cuda:0"), (True, False, "cuda:0"), (False, True, "mps"), (False, False, "cpu")],
)
def test_auto_takes_cuda_then_mps_then_the_cpu(engine_on, monkeypatch, cuda, mps, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    engine = engine_on(FakeRuntime())
    assert str(InferenceEngine(engine.model).device) == expected


@pytest.mark.parametrize(("bf16", "expected"), [(True, "bfloat16"), (False, "float32")])
def test_auto_takes_bfloat16_where_cuda_computes_in_it(engine_on, monkeypatch, bf16, expected):
    engine = engine_on(FakeRuntime())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: bf16 or including_emulation)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert InferenceEngine(engine.model, device="cuda").precision == expected
    assert InferenceEngine(engine.model, device="cuda:0", precision="float16").precision == "float16"
    assert InferenceEngine(engine.model, device="cpu").precision == "float32"


@pytest.mark.parametrize("device", ["tpu", "cuda:99", "cuda", "mps", ""])
def test_a_device_that_is_not_to_be_had_is_named(tiny_model, monkeypatch, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: device == "cuda:99")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(EngineError, match=f"device '{device}'"):
        InferenceEngine(tiny_model, device=device)


def test_a_precision_that_does_not_exist_is_named(tiny_model):
    with pytest.raises(EngineError, match="precision 'int8'"):
        InferenceEngine(tiny_model, device="cpu", precision="int8")


def test_a_runtime_that_does_not_fit_is_refused(tiny_model):
    with pytest.raises(EngineError, match="openvino"):
        InferenceEngine(tiny_model, device="cpu", runtime="openvino", compile=True)


def test_what_was_chosen_can_be_asked(tiny_model):
    engine = InferenceEngine(tiny_model, device="cpu", runtime="torch")
    assert (str(engine.device), engine.precision, engine.mode) == ("cpu", "float32", "eager")
    assert (engine.input_size, engine.num_classes, engine.max_batch_size) == (32, 5, 8)
    assert engine.parameters == sum(one.numel() for one in tiny_model.network.parameters())
    assert InferenceEngine(tiny_model, device="cpu").mode == "openvino"
    assert InferenceEngine(tiny_model, device="cpu", max_batch_size=3).max_batch_size == 3


def test_cores_are_counted_where_the_system_does_not_say_which_may_be_used(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {1, 5, 7}, raising=False)
    assert available_cores() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 12)
    assert available_cores() == 12
