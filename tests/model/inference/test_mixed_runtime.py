"""bfloat16 with close results in float32, on fakes and on OpenVINO."""

import numpy as np
import pytest
import torch

from model import load_model
from model.errors import EngineError
from model.images.transform import Pixels
from model.inference.bfloat16 import computes_bfloat16
from model.inference.fold import fold
from model.inference.mixed_runtime import MixedRuntime
from model.inference.openvino_runtime import OpenVinoRuntime
from model.inference.runtime import Runtime
from model.inference.warm_up import NotFinite
from tests.model.inference.conftest import EngineOn
from tests.model.inference.fake_runtime import FakeRuntime


def image(value: int) -> Pixels:
    """An image for which a fake's two highest logits are ``value`` and ``255 - value``, divided by 50."""
    return np.full((32, 32, 3), value, np.uint8)


@pytest.fixture
def mixed() -> tuple[MixedRuntime, FakeRuntime, FakeRuntime]:
    """A runtime whose fast logits are all higher by 0.1, and therefore 0.2 is close; its fast and its exact part."""
    fast, exact = FakeRuntime(), FakeRuntime()
    fast.value = 0.1
    runtime = MixedRuntime(fast, exact, [image(0), image(200)], speedup=2.0)
    exact.sizes.clear()
    return runtime, fast, exact


def test_the_margin_follows_from_the_error_of_the_fast_logits(
    mixed: tuple[MixedRuntime, FakeRuntime, FakeRuntime],
) -> None:
    assert mixed[0].margin == pytest.approx(0.2)


def test_only_close_results_are_computed_again(mixed: tuple[MixedRuntime, FakeRuntime, FakeRuntime]) -> None:
    runtime, _, exact = mixed
    images = [image(0), image(125), image(255), image(130), image(100)]  # differences 5.1, 0.1, 5.1, 0.1, 1.1
    logits = runtime.run(images, 8, idle=False).logits
    assert exact.sizes == [1, 1]
    added = logits - FakeRuntime().run(images, 8, idle=False).logits
    np.testing.assert_allclose(added[:, 0], [0.1, 0, 0.1, 0, 0.1], atol=1e-6)


def test_feature_maps_are_exact(mixed: tuple[MixedRuntime, FakeRuntime, FakeRuntime]) -> None:
    runtime, _, exact = mixed
    images = [image(0), image(255), image(100)]
    outputs, expected = (part.run(images, 4, idle=True, features=True) for part in (runtime, FakeRuntime()))
    assert exact.sizes == [1, 1, 1]
    np.testing.assert_array_equal(outputs.logits, expected.logits)
    assert outputs.features is not None
    assert expected.features is not None
    np.testing.assert_array_equal(outputs.features, expected.features)


def test_all_images_are_exact_while_most_of_them_are_close(
    mixed: tuple[MixedRuntime, FakeRuntime, FakeRuntime],
) -> None:
    runtime, fast, _ = mixed

    def share_of_fast_batches(images: list[Pixels]) -> float:
        for _ in range(100):  # until the moving average has followed
            runtime.run(images, 4, idle=False)
        before = len(fast.sizes)
        for _ in range(100):
            np.testing.assert_array_equal(
                runtime.run(images, 4, idle=False).logits.argmax(1),
                FakeRuntime().run(images, 4, idle=False).logits.argmax(1),
            )
        return (len(fast.sizes) - before) / 100

    assert share_of_fast_batches([image(125)] * 4) < 0.2
    assert share_of_fast_batches([image(0), image(255), image(0), image(125)]) == 1


def test_the_workers_are_those_of_the_fast_runtime() -> None:
    runtime = MixedRuntime(FakeRuntime(concurrency=3, batch_size_step=4), FakeRuntime(), [image(0)], speedup=2.0)
    assert (runtime.concurrency, runtime.batch_size_step, runtime.mode) == (3, 4, "fake")


@pytest.fixture
def cpu_with_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    capabilities = {"architecture": "x86_64", "avx512_bf16": True, "amx_bf16": False}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)


@pytest.mark.parametrize(("float32_s", "expected"), [(0.02, "bfloat16"), (0.0, "float32")])
@pytest.mark.usefixtures("cpu_with_bfloat16")
def test_auto_selects_bfloat16_on_a_cpu_if_it_is_faster(engine_on: EngineOn, float32_s: float, expected: str) -> None:
    exact, fast = FakeRuntime(), FakeRuntime()
    exact.batch_s, fast.batch_s = float32_s, 0.004
    engine = engine_on(exact, fast, runtime="openvino", max_batch_size=2)
    engine.warm_up()
    assert [exact.dtype, fast.dtype] == [torch.float32, torch.bfloat16]
    assert engine.precision == expected
    assert "times as fast as float32" in engine.precision_reason
    engine.predict([image(10)])
    assert (fast if expected == "bfloat16" else exact).sizes[-1] == 1


@pytest.mark.parametrize("error", [EngineError("no such type"), NotFinite("nan"), RuntimeError("no kernel")])
@pytest.mark.usefixtures("cpu_with_bfloat16")
def test_auto_stays_in_float32_if_bfloat16_does_not_run(engine_on: EngineOn, error: Exception) -> None:
    exact, fast = FakeRuntime(), FakeRuntime()
    fast.error = error
    engine = engine_on(exact, fast, runtime="openvino", max_batch_size=2)
    engine.warm_up()
    assert engine.precision == "float32"
    assert engine.precision_reason.startswith("bfloat16 does not run: ")
    assert engine.precision_reason.endswith(str(error))
    engine.predict([image(10)])
    assert exact.sizes[-1] == 1


@pytest.mark.usefixtures("cpu_with_bfloat16")
def test_a_requested_precision_is_not_changed(engine_on: EngineOn) -> None:
    engine = engine_on(FakeRuntime(), runtime="openvino", precision="float32", max_batch_size=1)
    engine.warm_up()
    assert (engine.precision, engine.precision_reason) == ("float32", "requested")


@pytest.mark.skipif(not computes_bfloat16(torch.device("cpu")), reason="the CPU has no bfloat16 instructions")
def test_the_top_class_of_openvino_is_that_of_float32() -> None:
    model = load_model("convnext_atto_tiny_imagenet_200")
    patterns = np.random.default_rng(1).integers(0, 256, (200, 14, 14, 3), np.uint8)
    images = list(patterns.repeat(16, 1).repeat(16, 2))
    network = fold(model.network, model.transform)
    fast, exact = (OpenVinoRuntime(network, dtype, 224, threads=1) for dtype in (torch.bfloat16, torch.float32))
    mixed = MixedRuntime(fast, exact, images[:8], speedup=2.0)

    def top_classes(runtime: Runtime) -> list[int]:
        batches = [images[first : first + 8] for first in range(0, len(images), 8)]
        logits = np.concatenate([runtime.run(batch, 8, idle=False).logits for batch in batches])
        classes: list[int] = logits.argmax(1).tolist()
        return classes

    assert np.not_equal(top_classes(mixed), top_classes(exact)).sum() <= 1
