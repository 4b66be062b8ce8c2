"""InferenceEngine: one network on one device in one runtime; uint8 images in, logits out."""

import logging
import statistics
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from model.checkpoints.load import LoadedModel
from model.errors import DeviceLost, EngineError
from model.head import HeadWeights
from model.images.transform import Pixels, measure_decoding
from model.inference.cpu import available_cores
from model.inference.fold import fold
from model.inference.openvino_runtime import OpenVinoRuntime
from model.inference.runtime import Outputs, Runtime
from model.inference.torch_runtime import TorchRuntime

logger = logging.getLogger(__name__)

RuntimeName = Literal["auto", "torch", "openvino"]
Precision = Literal["auto", "float32", "bfloat16", "float16"]
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_DEFAULT_MAX_BATCH_SIZE = {"cpu": 8, "mps": 16, "cuda": 64}
_MEASURE_RUNS = 5
_MEASURE_S = 0.3  # after which no more runs are measured
_NEW_MEASUREMENT_WEIGHT = 0.05  # of a batch while serving
_PLAN_INTERVAL = 100  # batches between two plans


class InferenceEngine:
    """Runs one folded network; ``concurrency`` threads may call ``predict`` at the same time.

    ``device`` is auto (CUDA, then MPS, then CPU), cpu, cuda, cuda:N or mps; ``runtime`` auto means OpenVINO on a CPU,
    PyTorch elsewhere; ``precision`` auto means bfloat16 on a CUDA device that supports it and float32 elsewhere.
    ``max_batch_size`` None leaves the choice to the device, ``threads`` None uses every core available to the process.
    Raises ``EngineError`` if something that was asked for is not available.
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
        self.device = _choose_device(device)
        self.dtype = _choose_dtype(precision, self.device)
        self.input_size = model.transform.crop_size
        self.num_classes = model.network.config.num_classes
        self.max_batch_size = max_batch_size or _DEFAULT_MAX_BATCH_SIZE[self.device.type]
        self.head = HeadWeights.of(model.network.head)
        self.parameters = sum(weight.numel() for weight in model.network.parameters())
        self.threads = threads or available_cores()
        self.batch_seconds: dict[int, float] = {}  # of one batch while all workers are busy, by batch size
        self._runtime = self._build_runtime(_choose_runtime(runtime, self.device, compile), compile)
        self._plans = plan_batches(dict.fromkeys(self._sizes(), 1.0))
        self._lock = threading.Lock()
        self._running = 0
        self._batches = 0

    @property
    def mode(self) -> str:
        """How the network is run: eager, compiled or openvino."""
        return self._runtime.mode

    @property
    def concurrency(self) -> int:
        """How many threads may call ``predict`` at the same time; known after the warm-up."""
        return self._runtime.concurrency

    @property
    def precision(self) -> str:
        """The data type of the computation: float32, bfloat16 or float16."""
        return str(self.dtype).removeprefix("torch.")

    @property
    def expected_rate(self) -> float:
        """Images per second of all workers at the best batch size; 0 before the warm-up."""
        rates = (size / seconds for size, seconds in self.batch_seconds.items())
        return self.concurrency * max(rates, default=0.0)

    def warm_up(self) -> None:
        """Runs every batch size that will be used, and measures how long it takes.

        From then on, a number of images in between is padded to a size or split into several, whichever is faster.
        If the memory of the device is too small for a size, ``max_batch_size`` becomes the previous one.
        Raises ``EngineError`` if not even one image can be run, or its result is not finite.
        """
        random = np.random.default_rng(0)
        shape = (self.max_batch_size, self.input_size, self.input_size, 3)
        images = random.integers(0, 256, shape, np.uint8)
        fitting = [size for size in self._sizes() if self._fits(images[:size])]
        self.max_batch_size = fitting[-1]
        self._runtime.tune(images[: self.max_batch_size], measure_decoding(self.model.transform))
        self.batch_seconds = {size: self._measure(images[:size]) for size in fitting}
        self._plan()

    def predict(self, images: Sequence[Pixels], *, idle: bool = False) -> npt.NDArray[np.float32]:
        """Logits ``(N, num_classes)`` of N images ``(input_size, input_size, 3)`` uint8, at most ``max_batch_size``.

        ``idle`` says that nothing else needs the cores, so that a single image may be run on all of them.
        Raises ``DeviceLost`` if the device can no longer be used. A batch that does not fit into memory is run once
        more in two halves.
        """
        return self._predict(images, features=False, idle=idle).logits

    def predict_with_features(
        self, images: Sequence[Pixels], *, idle: bool = False
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Logits and last feature maps ``(N, K, H, W)`` of one forward pass; otherwise like ``predict``."""
        logits, features = self._predict(images, features=True, idle=idle)
        assert features is not None  # noqa: S101 - it was asked for
        return logits, features

    def _predict(self, images: Sequence[Pixels], *, features: bool, idle: bool) -> Outputs:
        try:
            return self._run_plan(images, features, idle=idle)
        except (torch.OutOfMemoryError, MemoryError):
            if len(images) == 1:
                raise
            logger.warning("a batch of %d does not fit into memory; it is run in two halves", len(images))
            half = len(images) // 2
            return _join([self._run_plan(images[:half], features), self._run_plan(images[half:], features)])
        except torch.AcceleratorError as error:
            raise DeviceLost(f"{self.device} is lost: {error}") from error

    def _run_plan(self, images: Sequence[Pixels], features: bool, *, idle: bool = False) -> Outputs:
        parts, done = [], 0
        for size in self._plans[len(images)]:
            parts.append(self._run(images[done : done + size], size, features, idle))
            done += size
        return _join(parts)

    def _run(self, images: Sequence[Pixels], size: int, features: bool, idle: bool) -> Outputs:
        batch = np.zeros((size, *images[0].shape), np.uint8)  # (size, H, W, 3)
        np.stack(images, out=batch[: len(images)])
        with self._measured(size):
            logits, maps = self._runtime.run(batch, idle=idle, features=features)
        return Outputs(logits[: len(images)], None if maps is None else maps[: len(images)])

    @contextmanager
    def _measured(self, size: int) -> Iterator[None]:
        """Corrects ``batch_seconds`` by one batch, if all workers are busy."""
        with self._lock:
            self._running += 1
            busy = self._running == self.concurrency
        started_at = time.perf_counter()
        try:
            yield
        finally:
            seconds = time.perf_counter() - started_at
            with self._lock:
                self._running -= 1
                if busy and size in self.batch_seconds:
                    self.batch_seconds[size] += _NEW_MEASUREMENT_WEIGHT * (seconds - self.batch_seconds[size])
                    self._batches += 1
                    if self._batches % _PLAN_INTERVAL == 0:
                        self._plan()

    def _plan(self) -> None:
        if self._runtime.batch_size_step > 1:
            self._plans = plan_batches(self.batch_seconds)

    def _fits(self, images: npt.NDArray[np.uint8]) -> bool:
        """Runs a batch for the first time; returns whether it fits into memory. Raises ``EngineError``."""
        try:
            logits = self._runtime.run(images, idle=True).logits
        except (torch.OutOfMemoryError, MemoryError) as error:
            if len(images) == 1:
                raise EngineError(f"not even one image fits into the memory of {self.device}") from error
            logger.warning("batches of %d images do not fit into the memory of %s", len(images), self.device)
            return False
        except RuntimeError as error:  # for example torch.compile without a compiler
            reason = str(error).strip().splitlines()[0]
            raise EngineError(f"the network cannot be run on {self.device}, {self.mode}: {reason}") from error
        if not np.isfinite(logits).all():
            raise EngineError(f"the result of the network is not finite in {self.precision}; check its weights")
        return True

    def _measure(self, images: npt.NDArray[np.uint8]) -> float:
        """Seconds of one batch while all workers run one: the median of a few runs."""
        times: list[float] = []

        def run(_: int) -> None:
            started_at = time.perf_counter()
            self._runtime.run(images, idle=False)
            times.append(time.perf_counter() - started_at)

        with ThreadPoolExecutor(self.concurrency) as workers:
            list(workers.map(run, range(self.concurrency)))
            times.clear()  # the first run of each worker allocates memory
            started_at = time.perf_counter()
            for _ in range(_MEASURE_RUNS):
                list(workers.map(run, range(self.concurrency)))
                if time.perf_counter() - started_at > _MEASURE_S:
                    break
        return statistics.median(times)

    def _build_runtime(self, name: RuntimeName, compiled: bool) -> Runtime:
        network = fold(self.model.network, self.model.transform)
        if name == "openvino":
            return OpenVinoRuntime(network, self.dtype, self.input_size, self.threads)
        return TorchRuntime(network, self.device, self.dtype, compiled=compiled, threads=self.threads)

    def _sizes(self) -> list[int]:
        """The batch sizes that are used: each one, or a few if every size is compiled."""
        step = self._runtime.batch_size_step
        if step == 1:
            return list(range(1, self.max_batch_size + 1))
        powers = [step**exponent for exponent in range(self.max_batch_size.bit_length())]
        return [*(size for size in powers if size < self.max_batch_size), self.max_batch_size]


def _join(parts: Sequence[Outputs]) -> Outputs:
    if len(parts) == 1:
        return parts[0]
    maps = [part.features for part in parts if part.features is not None]
    return Outputs(np.concatenate([part.logits for part in parts]), np.concatenate(maps) if maps else None)


def plan_batches(seconds: Mapping[int, float]) -> dict[int, tuple[int, ...]]:
    """For each number of images up to the largest size, the sizes to run at ``seconds`` each; the last is padded."""
    costs: dict[int, float] = {0: 0.0}
    plans: dict[int, tuple[int, ...]] = {0: ()}
    for count in range(1, max(seconds) + 1):
        totals = {size: cost + costs[max(0, count - size)] for size, cost in seconds.items()}
        best = min(totals, key=totals.__getitem__)
        costs[count], plans[count] = totals[best], (best, *plans[max(0, count - best)])
    return plans


def _choose_device(name: str) -> torch.device:
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda:0")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    kind, _, index = name.partition(":")
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if kind not in available:
        raise EngineError(f"device {name!r} is not one of auto, cpu, cuda, cuda:N, mps")
    if not available[kind]:
        raise EngineError(f"device {name!r} is not available: neither on this machine nor in this build of torch")
    if kind == "cuda" and int(index or 0) >= torch.cuda.device_count():
        raise EngineError(f"device {name!r} is not available: there are {torch.cuda.device_count()} CUDA devices")
    return torch.device(name if kind != "cuda" else f"cuda:{index or 0}")


def _choose_runtime(name: RuntimeName, device: torch.device, compiled: bool) -> RuntimeName:
    if name == "auto":
        return "openvino" if device.type == "cpu" and not compiled else "torch"
    if name == "openvino" and (device.type != "cpu" or compiled):
        raise EngineError(f"the openvino runtime supports neither {device} nor compile")
    return name


def _choose_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    if precision in _DTYPES:
        return _DTYPES[precision]
    if precision != "auto":
        raise EngineError(f"precision {precision!r} is not one of auto, {', '.join(_DTYPES)}")
    if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.bfloat16
    return torch.float32
