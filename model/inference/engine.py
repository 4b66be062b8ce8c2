"""InferenceEngine: one network on one device in one runtime; uint8 images in, top-k classes out."""

import logging
import os
import time
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from model.checkpoints.load import LoadedModel
from model.errors import DeviceLost, EngineError
from model.inference.fold import fold
from model.inference.openvino_runtime import OpenVinoRuntime
from model.inference.runtime import Runtime
from model.inference.torch_runtime import TorchRuntime
from model.preprocess import Pixels

logger = logging.getLogger(__name__)

RuntimeName = Literal["auto", "torch", "openvino"]
Precision = Literal["auto", "float32", "bfloat16", "float16"]
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_MEASURE_S = 0.1  # a run that takes longer is measured once
_DEFAULT_MAX_BATCH_SIZE = {"cpu": 8, "mps": 16, "cuda": 64}


class InferenceEngine:
    """Runs one folded network; not safe for use by several threads at once.

    ``device`` is auto (CUDA, then MPS, then CPU), cpu, cuda, cuda:N or mps; ``runtime`` auto means OpenVINO on a CPU,
    PyTorch elsewhere; ``precision`` auto means bfloat16 on a CUDA device that computes in it and float32 elsewhere.
    ``max_batch_size`` None leaves the choice to the device, ``threads`` None takes every core that the process may use.
    Raises ``EngineError`` where something that was asked for is not to be had.
    """

    def __init__(
        self,
        model: LoadedModel,
        *,
        device: str = "auto",
        runtime: RuntimeName = "auto",
        precision: Precision = "auto",
        compile: bool = False,  # noqa: A002 - the setting's name
        max_batch_size: int | None = None,
        threads: int | None = None,
    ) -> None:
        self.model = model
        self.concurrency = 1
        self.device = _choose_device(device)
        self.dtype = _choose_dtype(precision, self.device)
        self.input_size = model.transform.crop_size
        self.num_classes = model.network.config.num_classes
        self.max_batch_size = max_batch_size or _DEFAULT_MAX_BATCH_SIZE[self.device.type]
        self.parameters = sum(weight.numel() for weight in model.network.parameters())
        self.batch_seconds: dict[int, float] = {}
        self._runtime = self._build_runtime(_choose_runtime(runtime, self.device, compile), compile, threads)
        self._plans = _cheapest_runs(dict.fromkeys(self._sizes(), 1.0))

    @property
    def mode(self) -> str:
        """How the network is computed: eager, compiled or openvino."""
        return self._runtime.mode

    @property
    def precision(self) -> str:
        """The arithmetic's type: float32, bfloat16 or float16."""
        return str(self.dtype).removeprefix("torch.")

    @property
    def expected_rate(self) -> float:
        """Images a second in the batch size that the warm-up found best; 0 before it."""
        return max((size / seconds for size, seconds in self.batch_seconds.items()), default=0.0)

    def warm_up(self) -> None:
        """Runs every batch size that will be used, and measures each: ``batch_seconds``, size → s.

        From then on, a number of images in between is padded to a size or split into several, whichever is faster.
        Where the device's memory does not hold a size, ``max_batch_size`` becomes the last one that fitted.
        Raises ``EngineError`` where not even one image runs, or its result is not finite.
        """
        blank = np.zeros((self.input_size, self.input_size, 3), np.uint8)
        for size in self._sizes():
            try:
                result = self.predict([blank] * size)
            except torch.OutOfMemoryError as error:
                if not self.batch_seconds:
                    raise EngineError(f"not even one image fits into the memory of {self.device}") from error
                self.max_batch_size = max(self.batch_seconds)
                logger.warning("max_batch_size lowered to %d: %d do not fit into memory", self.max_batch_size, size)
                break
            except RuntimeError as error:  # torch.compile where there is no compiler, for one
                reason = str(error).strip().splitlines()[0]
                raise EngineError(f"the network does not run on {self.device}, {self.mode}: {reason}") from error
            if not np.isfinite(result).all():
                raise EngineError(f"the network gives no finite result in {self.precision}: are its weights whole?")
            self.batch_seconds[size] = self._measure([blank] * size)
        if self._runtime.growth > 1:
            self._plans = _cheapest_runs(self.batch_seconds)

    def predict(self, images: Sequence[Pixels]) -> npt.NDArray[np.float32]:
        """Logits ``(N, num_classes)`` of N images ``(input_size, input_size, 3)`` uint8; N is at most ``max_batch_size``.

        Raises ``DeviceLost`` if the device can no longer be used.
        """
        parts, done = [], 0
        try:
            for size in self._plans[len(images)]:
                parts.append(self._run(images[done : done + size], size))
                done += size
        except torch.OutOfMemoryError:
            raise
        except torch.AcceleratorError as error:
            raise DeviceLost(f"{self.device} is lost: {error}") from error
        return np.concatenate(parts)

    def _run(self, images: Sequence[Pixels], size: int) -> npt.NDArray[np.float32]:
        count = len(images)
        batch = np.stack([*images, *[np.zeros_like(images[0])] * (size - count)])  # (size, H, W, 3) uint8
        with torch.inference_mode():
            logits: npt.NDArray[np.float32] = self._runtime.logits(batch)[:count].float().cpu().numpy().copy()
            return logits

    def _measure(self, images: Sequence[Pixels]) -> float:
        """Seconds of one run: of the fastest of three where they are short, as one alone may be disturbed."""
        times: list[float] = []
        while len(times) < 3 and sum(times) < _MEASURE_S:
            started = time.perf_counter()
            self._run(images, len(images))
            times.append(time.perf_counter() - started)
        return min(times)

    def _build_runtime(self, name: RuntimeName, compiled: bool, threads: int | None) -> Runtime:
        network = fold(self.model.network, self.model.transform)
        threads = threads or available_cores()
        if name == "openvino":
            return OpenVinoRuntime(network, self.dtype, self.input_size, threads)
        torch.set_num_threads(threads)
        return TorchRuntime(network, self.device, self.dtype, compiled=compiled)

    def _sizes(self) -> list[int]:
        """The batch sizes that run: each one, or a few where every size costs a compilation."""
        if self._runtime.growth == 1:
            return list(range(1, self.max_batch_size + 1))
        powers = [self._runtime.growth**exponent for exponent in range(self.max_batch_size.bit_length())]
        return [*(size for size in powers if size < self.max_batch_size), self.max_batch_size]


def _cheapest_runs(seconds: Mapping[int, float]) -> dict[int, tuple[int, ...]]:
    """For each number of images up to the largest size, the sizes to run, at ``seconds`` each: the last one padded."""
    costs: dict[int, float] = {0: 0.0}
    plans: dict[int, tuple[int, ...]] = {0: ()}
    for count in range(1, max(seconds) + 1):
        totals = {size: cost + costs[max(0, count - size)] for size, cost in seconds.items()}
        best = min(totals, key=totals.__getitem__)
        costs[count], plans[count] = totals[best], (best, *plans[max(0, count - best)])
    return plans


def available_cores() -> int:
    """How many cores this process may use; where the system does not say (macOS), how many there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _choose_device(name: str) -> torch.device:
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda:0")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    kind, _, index = name.partition(":")
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if kind not in available:
        raise EngineError(f"device {name!r} is none of auto, cpu, cuda, cuda:N, mps")
    if not available[kind]:
        raise EngineError(f"device {name!r} is not to be had: this machine or this build of torch has none")
    if kind == "cuda" and int(index or 0) >= torch.cuda.device_count():
        raise EngineError(f"device {name!r} is not to be had: there are {torch.cuda.device_count()}")
    return torch.device(name if kind != "cuda" else f"cuda:{index or 0}")


def _choose_runtime(name: RuntimeName, device: torch.device, compiled: bool) -> RuntimeName:
    if name == "auto":
        return "openvino" if device.type == "cpu" and not compiled else "torch"
    if name == "openvino" and (device.type != "cpu" or compiled):
        raise EngineError(f"the openvino runtime is for the CPU and compiles by itself, not for {device} or compile")
    return name


def _choose_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    if precision in _DTYPES:
        return _DTYPES[precision]
    if precision != "auto":
        raise EngineError(f"precision {precision!r} is none of auto, {', '.join(_DTYPES)}")
    if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.bfloat16
    return torch.float32
