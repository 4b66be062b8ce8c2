"""An engine on a fake runtime."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from model import LoadedModel, Transform
from model.convnext import ConvNeXt, ConvNeXtConfig
from model.inference.engine import InferenceEngine
from model.inference.fold import fold
from tests.model.conftest import randomize
from tests.model.inference.fake_runtime import FakeRuntime

EngineOn = Callable[..., InferenceEngine]


def folded(**kind: Any) -> ConvNeXt:  # Any: fields of the configuration
    """A small folded network for images of 32×32 pixels."""
    network = randomize(ConvNeXt(ConvNeXtConfig((1, 2), (8, 16), num_classes=5, **kind)))
    return fold(network, Transform(32, 32))


@pytest.fixture
def engine_on(tiny_model: LoadedModel) -> EngineOn:
    """``engine_on(*runtimes, **options)``: an engine whose network is run by a fake, and if that fails by the next."""

    def build(*runtimes: FakeRuntime, **options: Any) -> InferenceEngine:  # Any: the engine's keyword arguments
        remaining = iter(runtimes)

        def build_next(
            _name: str, _network: object, _device: object, dtype: torch.dtype, **_options: object
        ) -> FakeRuntime:
            runtime = next(remaining)
            runtime.dtype = dtype
            return runtime

        return InferenceEngine(tiny_model, build=build_next, **({"device": "cpu", "runtime": "torch"} | options))

    return build


@pytest.fixture
def cuda_device(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """``cuda_device(bf16, count)``: torch reports CUDA devices; bfloat16 is asked of the current one."""

    def report(*, bf16: bool = True, count: int = 1) -> None:
        current = [0]

        @contextmanager
        def select(device: torch.device) -> Iterator[None]:
            before, current[0] = current[0], device.index or 0
            yield
            current[0] = before

        # Of several devices, only the last one computes bfloat16, if any does.
        monkeypatch.setattr(
            torch.cuda,
            "is_bf16_supported",
            lambda including_emulation: including_emulation or (bf16 and current[0] == count - 1),
        )
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "device", select)

    return report
