"""The engine's choice of device, precision and runtime."""

import importlib.util
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from model import LoadedModel
from model.errors import EngineError
from model.inference.engine import InferenceEngine, Precision
from model.inference.selection import choose_dtypes, choose_runtime
from tests.model.inference.conftest import EngineOn
from tests.model.inference.fake_runtime import FakeRuntime


@pytest.mark.parametrize(
    ("cuda", "mps", "expected"),
    [(True, True, "cuda:0"), (True, False, "cuda:0"), (False, True, "mps"), (False, False, "cpu")],
)
def test_auto_selects_cuda_then_mps_then_the_cpu(
    engine_on: EngineOn,
    monkeypatch: pytest.MonkeyPatch,
    cuda_device: Callable[..., None],
    cuda: bool,
    mps: bool,
    expected: str,
) -> None:
    cuda_device()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert str(engine_on(FakeRuntime(), device="auto").device) == expected


def test_auto_selects_float16_on_cuda_and_float32_elsewhere(
    engine_on: EngineOn, cuda_device: Callable[..., None]
) -> None:
    cuda_device()
    assert engine_on(FakeRuntime(), device="cuda").precision == "float16"
    assert engine_on(FakeRuntime(), device="cuda:0", precision="bfloat16").precision == "bfloat16"
    assert engine_on(FakeRuntime(), device="cpu").precision == "float32"


def test_bfloat16_is_asked_of_the_device_that_is_used(cuda_device: Callable[..., None]) -> None:
    cuda_device(count=2)
    assert choose_dtypes("auto", torch.device("cuda:0")) == [torch.float16, torch.float32]
    assert choose_dtypes("auto", torch.device("cuda:1")) == [torch.float16, torch.bfloat16]


WITHOUT_OPENVINO = """
import sys
sys.modules["openvino"] = None
import importlib.util
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name == "openvino" else find_spec(name, package)
import numpy as np
from model import load_model
from model.errors import EngineError
from model.inference.engine import InferenceEngine
model = load_model(sys.argv[1])
engine = InferenceEngine(model, device="cpu", max_batch_size=1)
engine.warm_up()
engine.predict([np.zeros((32, 32, 3), np.uint8)])
try:
    InferenceEngine(model, device="cpu", runtime="openvino")
except EngineError:
    print(engine.mode)
"""


def test_without_openvino_a_cpu_is_served_by_torch(tiny_path: Path) -> None:
    command = [sys.executable, "-c", WITHOUT_OPENVINO, str(tiny_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "eager\n"


def test_serving_by_torch_because_openvino_is_missing_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert choose_runtime("auto", torch.device("cuda"), compiled=False) == "torch"
    assert not caplog.records
    assert choose_runtime("auto", torch.device("cpu"), compiled=False) == "torch"
    assert len(caplog.records) == 1


@pytest.mark.parametrize("device", ["tpu", "cuda:99", "cuda", "mps", ""])
def test_a_device_that_is_not_available_is_named(
    tiny_model: LoadedModel, monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: device == "cuda:99")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(EngineError, match=f"device '{device}'"):
        InferenceEngine(tiny_model, device=device)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("The NVIDIA driver on your system is too old (found version 11040)"),
        AssertionError("Torch not compiled with CUDA enabled"),
    ],
    ids=["driver", "build"],
)
def test_why_there_is_no_cuda_device_is_part_of_the_error(
    tiny_model: LoadedModel, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "init", fail)
    with pytest.raises(EngineError, match=re.escape(str(error))):
        InferenceEngine(tiny_model, device="cuda")


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
