"""The device, the runtime and the precisions that an engine may use."""

import importlib.util
import logging
from typing import Literal

import torch

from model.errors import EngineError
from model.inference.bfloat16 import computes_bfloat16

logger = logging.getLogger(__name__)

RuntimeName = Literal["auto", "torch", "openvino"]
Precision = Literal["auto", "float32", "bfloat16", "float16"]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def choose_device(name: str) -> torch.device:
    """``name`` is auto (CUDA, then MPS, then CPU), cpu, cuda, cuda:N or mps. Raises ``EngineError``."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda:0")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    kind, _, index = name.partition(":")
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if kind not in available:
        raise EngineError(f"device {name!r} is not one of auto, cpu, cuda, cuda:N, mps")
    if not available[kind]:
        raise EngineError(f"device {name!r} is not available: {_reason(kind)}")
    if kind == "cuda" and int(index or 0) >= torch.cuda.device_count():
        raise EngineError(f"device {name!r} is not available: there are {torch.cuda.device_count()} CUDA devices")
    return torch.device(name if kind != "cuda" else f"cuda:{index or 0}")


def _reason(kind: str) -> str:
    """Why there is none: for CUDA, torch tells a missing driver, an old one and its own build apart."""
    try:
        if kind == "cuda":
            torch.cuda.init()  # type: ignore[no-untyped-call]  # torch's
    except (RuntimeError, AssertionError) as error:
        return str(error).splitlines()[0]
    return "neither on this machine nor in this build of torch"


def choose_runtime(name: RuntimeName, device: torch.device, compiled: bool) -> RuntimeName:
    """``name`` auto means OpenVINO on a CPU if it is installed, else torch. Raises ``EngineError``."""
    on_cpu = device.type == "cpu" and not compiled
    installed = importlib.util.find_spec("openvino") is not None
    if name == "auto":
        if on_cpu and not installed:
            logger.warning("OpenVINO is not installed: the network runs in PyTorch, which is slower on a CPU")
        return "openvino" if on_cpu and installed else "torch"
    if name == "openvino" and not on_cpu:
        raise EngineError(f"the openvino runtime supports neither {device} nor compile")
    if name == "openvino" and not installed:
        raise EngineError("the openvino runtime is not installed: pip install openvino")
    return name


def choose_dtypes(precision: Precision, device: torch.device) -> list[torch.dtype]:
    """The data types to try, in this order, until the results are finite; more than one only for ``auto``.

    float16 has more digits than bfloat16, whose range few networks need. Raises ``EngineError``.
    """
    if precision in DTYPES:
        return [DTYPES[precision]]
    if precision != "auto":
        raise EngineError(f"precision {precision!r} is not one of auto, {', '.join(DTYPES)}")
    if device.type != "cuda":
        return [torch.float32]
    return [torch.float16, torch.bfloat16 if computes_bfloat16(device) else torch.float32]
