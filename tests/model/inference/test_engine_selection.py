"""The engine's choice of device, precision and runtime."""

import pytest
import torch

from model import LoadedModel
from model.errors import EngineError
from model.inference.engine import InferenceEngine, Precision
from tests.model.inference.conftest import EngineOn
from tests.model.inference.fake_runtime import FakeRuntime


@pytest.mark.parametrize(
    ("cuda", "mps", "expected"),
    [(True, True, "cuda:0"), (True, False, "cuda:0"), (False, True, "mps"), (False, False, "cpu")],
)
def test_auto_selects_cuda_then_mps_then_the_cpu(
    engine_on: EngineOn, monkeypatch: pytest.MonkeyPatch, cuda: bool, mps: bool, expected: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    engine = engine_on(FakeRuntime())
    assert str(InferenceEngine(engine.model).device) == expected


@pytest.mark.parametrize(("bf16", "expected"), [(True, "bfloat16"), (False, "float32")])
def test_auto_selects_bfloat16_if_cuda_supports_it(
    engine_on: EngineOn, monkeypatch: pytest.MonkeyPatch, bf16: bool, expected: str
) -> None:
    engine = engine_on(FakeRuntime())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: bf16 or including_emulation)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert InferenceEngine(engine.model, device="cuda").precision == expected
    assert InferenceEngine(engine.model, device="cuda:0", precision="float16").precision == "float16"
    assert InferenceEngine(engine.model, device="cpu").precision == "float32"


@pytest.mark.parametrize("device", ["tpu", "cuda:99", "cuda", "mps", ""])
def test_a_device_that_is_not_available_is_named(
    tiny_model: LoadedModel, monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: device == "cuda:99")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(EngineError, match=f"device '{device}'"):
        InferenceEngine(tiny_model, device=device)


def test_an_unknown_precision_is_named(tiny_model: LoadedModel) -> None:
    precision: Precision = "int8"  # type: ignore[assignment]  # what a caller without types could pass
    with pytest.raises(EngineError, match="'int8'"):
        InferenceEngine(tiny_model, device="cpu", precision=precision)


def test_openvino_does_not_combine_with_compile(tiny_model: LoadedModel) -> None:
    with pytest.raises(EngineError, match="openvino"):
        InferenceEngine(tiny_model, device="cpu", runtime="openvino", compile=True)


def test_the_chosen_device_precision_and_runtime_are_attributes(tiny_model: LoadedModel) -> None:
    engine = InferenceEngine(tiny_model, device="cpu", runtime="torch")
    assert (str(engine.device), engine.precision, engine.mode) == ("cpu", "float32", "eager")
    assert (engine.input_size, engine.num_classes, engine.max_batch_size) == (32, 5, 8)
    assert engine.parameters == sum(parameter.numel() for parameter in tiny_model.network.parameters())
    assert InferenceEngine(tiny_model, device="cpu").mode == "openvino"
    assert InferenceEngine(tiny_model, device="cpu", max_batch_size=3).max_batch_size == 3
