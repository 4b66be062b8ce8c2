"""InferenceEngine: one network on one device in one runtime; uint8 images in, logits out."""

import logging
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import torch

from model.checkpoints.load import LoadedModel
from model.errors import DeviceLost, EngineError
from model.head import HeadWeights
from model.images.transform import Pixels, measure_decoding
from model.inference.batch_plan import batch_sizes, plan_batches
from model.inference.bfloat16 import computes_bfloat16
from model.inference.build import build_runtime
from model.inference.cpu import available_cores
from model.inference.device_errors import is_device_lost, is_out_of_memory
from model.inference.fold import fold
from model.inference.mixed_runtime import MixedRuntime
from model.inference.runtime import Outputs, Runtime, join
from model.inference.selection import Precision, RuntimeName, choose_device, choose_dtypes, choose_runtime
from model.inference.warm_up import NotFinite, warm_up

__all__ = ["InferenceEngine", "Precision", "RuntimeName"]

logger = logging.getLogger(__name__)

_DEFAULT_MAX_BATCH_SIZE = {"cpu": 8, "mps": 16, "cuda": 64}
_NEW_MEASUREMENT_WEIGHT = 0.05  # of a batch while serving
_PLAN_INTERVAL = 100  # batches between two plans
_SAMPLE_IMAGES = 8
_COMPARISONS = 20
_COMPARISON_S = 1.0  # after which no more are made, if bfloat16 is worthwhile
_LONG_COMPARISON_S = 5.0  # else, as other programs may have slowed it down
_WORTHWHILE = 1.3  # times the rate of float32, for bfloat16 on a CPU


class InferenceEngine:
    """Runs one folded network; ``concurrency`` threads may call ``predict`` at the same time.

    ``device`` is auto (CUDA, then MPS, then CPU), cpu, cuda, cuda:N or mps; ``runtime`` auto means OpenVINO on a CPU
    and PyTorch elsewhere. ``precision`` auto means float16 on a CUDA device, unless the warm-up finds that its range is
    too small for the network. On a CPU with bfloat16 instructions it means bfloat16 if the warm-up finds it faster by
    more than ``_WORTHWHILE``, and float32 again for images whose two highest logits are close; elsewhere float32. The
    head computes in float32 in any precision.
    ``max_batch_size`` None leaves the choice to the device, ``threads`` None uses every core available to the process.
    ``build`` is called as ``build_runtime``. Raises ``EngineError`` if something that was asked for is not available.
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
        build: Callable[..., Runtime] = build_runtime,
    ) -> None:
        self.model = model
        self.device = choose_device(device)
        self.dtype, *self._other_dtypes = choose_dtypes(precision, self.device)
        self.input_size = model.transform.crop_size
        self.num_classes = model.network.config.num_classes
        self.max_batch_size = max_batch_size or _DEFAULT_MAX_BATCH_SIZE[self.device.type]
        self.head = HeadWeights.of(model.network.head)
        self.parameters = sum(weight.numel() for weight in model.network.parameters())
        self.threads = threads or available_cores()
        self.precision_reason = "requested" if precision != "auto" else f"default on {self.device.type}"
        self.batch_seconds: dict[int, float] = {}  # of one batch while all workers are busy, by batch size
        self._compile = compile
        self._build = build
        self._runtime_name = choose_runtime(runtime, self.device, compile)
        self._tries_bfloat16 = (
            precision == "auto"
            and self._runtime_name == "openvino"
            and self.num_classes > 1  # or no two logits are close
            and computes_bfloat16(self.device)
        )
        self._runtime = self._build_runtime(self.dtype)
        self._plans = plan_batches(dict.fromkeys(self._sizes(), 1.0))
        self._lock = threading.Lock()
        self._running = 0
        self._batches = 0

    @property
    def mode(self) -> str:
        """How the network is run: eager, compiled, openvino, or on CUDA the faster paths that were proved."""
        return self._runtime.mode

    @property
    def concurrency(self) -> int:
        """How many threads may call ``predict`` at the same time; known after the warm-up."""
        return self._runtime.concurrency

    @property
    def precision(self) -> str:
        """The data type of the computation: float32, bfloat16 or float16; known after the warm-up."""
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
        images = _sample_images(self.max_batch_size, self.input_size)
        decode_s = measure_decoding(self.model.transform)
        while True:
            try:
                self.batch_seconds = warm_up(self._runtime, images, self._sizes(), decode_s)
                break
            except NotFinite as error:
                if not self._other_dtypes:
                    raise NotFinite(f"{error} (in {self.precision})") from error
            self._change_precision(self._other_dtypes.pop(0))
        self.max_batch_size = max(self.batch_seconds)
        if self._tries_bfloat16:
            self._try_bfloat16(images[: self.max_batch_size], decode_s)
        self._plan()

    def predict(self, images: Sequence[Pixels], *, idle: bool = False) -> npt.NDArray[np.float32]:
        """Logits ``(N, num_classes)`` of N images ``(input_size, input_size, 3)`` uint8, at most ``max_batch_size``.

        Those of an image beyond the range of the precision are not finite.
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
            if (outputs := self._run_if_it_fits(images, features, idle)) is not None:
                return outputs
            logger.warning("a batch of %d does not fit into memory; it is run in two halves", len(images))
            half = len(images) // 2
            return join([self._run_plan(images[:half], features), self._run_plan(images[half:], features)])
        except RuntimeError as error:
            if not is_device_lost(error):
                raise
            raise DeviceLost(f"{self.device} is lost: {error}") from error

    def _run_if_it_fits(self, images: Sequence[Pixels], features: bool, idle: bool) -> Outputs | None:
        """None if more than one image does not fit. Returning releases the exception, and with it the activations."""
        try:
            return self._run_plan(images, features, idle=idle)
        except (RuntimeError, MemoryError) as error:
            if len(images) == 1 or not is_out_of_memory(error):
                raise
            return None

    def _run_plan(self, images: Sequence[Pixels], features: bool, *, idle: bool = False) -> Outputs:
        parts, done = [], 0
        for size in self._plans[len(images)]:
            parts.append(self._run(images[done : done + size], size, features, idle))
            done += size
        return join(parts)

    def _run(self, images: Sequence[Pixels], size: int, features: bool, idle: bool) -> Outputs:
        with self._measured(size):
            return self._runtime.run(images, size, idle=idle, features=features)

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

    def _sizes(self) -> list[int]:
        return batch_sizes(self.max_batch_size, self._runtime.batch_size_step)

    def _change_precision(self, dtype: torch.dtype) -> None:
        logger.warning("the result of the network is not finite in %s; trying %s", self.precision, dtype)
        self.dtype = dtype
        self.precision_reason = "the results were not finite in float16"
        del self._runtime  # both may not fit into memory
        self._runtime = self._build_runtime(dtype)

    def _try_bfloat16(self, images: Sequence[Pixels], decode_s: float) -> None:
        """Changes from float32 to bfloat16 if that is possible and worthwhile."""
        logger.info("the same in bfloat16, for comparison:")
        try:
            fast = self._build_runtime(torch.bfloat16)
            seconds = warm_up(fast, images, self._sizes(), decode_s)
        except (EngineError, RuntimeError) as error:
            self.precision_reason = f"bfloat16 does not run: {error}"
            logger.warning("staying in float32: %s", self.precision_reason)
            return
        images = images[: max(seconds)]
        speedup = _measure_speedup(fast, self._runtime, images)
        self.precision_reason = f"bfloat16 is {speedup:.2f} times as fast as float32"
        if speedup >= _WORTHWHILE:
            self.precision_reason += "; close results are computed again in float32"
            self._runtime.tune(images[:1], [1], decode_s)
            self._runtime = MixedRuntime(fast, self._runtime, images, speedup)
            self.batch_seconds, self.dtype = seconds, torch.bfloat16

    def _build_runtime(self, dtype: torch.dtype) -> Runtime:
        return self._build(
            self._runtime_name,
            fold(self.model.network, self.model.transform),
            self.device,
            dtype,
            input_size=self.input_size,
            max_batch_size=self.max_batch_size,
            threads=self.threads,
            compiled=self._compile,
        )


def _sample_images(count: int, size: int) -> list[Pixels]:
    """Coarse random patterns with some noise; a few different ones, repeated."""
    random = np.random.default_rng(0)
    distinct = min(count, _SAMPLE_IMAGES)
    coarse = random.uniform(0, 255, (distinct, 1 + size // 16, 1 + size // 16, 3)).repeat(16, 1).repeat(16, 2)
    noise = random.normal(0, 20, (distinct, size, size, 3))
    images = (coarse[:, :size, :size] + noise).clip(0, 255).astype(np.uint8)
    return [images[i % distinct] for i in range(count)]


def _measure_speedup(fast: Runtime, slow: Runtime, images: Sequence[Pixels]) -> float:
    """How many times as fast ``fast`` runs a batch, by the least times of alternating runs: the cores may be busy."""
    seconds = [math.inf, math.inf]
    started_at = time.perf_counter()
    for _ in range(_COMPARISONS):
        for index, runtime in enumerate((fast, slow)):
            run_at = time.perf_counter()
            runtime.run(images, len(images), idle=False)
            seconds[index] = min(seconds[index], time.perf_counter() - run_at)
        limit_s = _COMPARISON_S if seconds[1] >= _WORTHWHILE * seconds[0] else _LONG_COMPARISON_S
        if time.perf_counter() - started_at > limit_s:
            break
    return seconds[1] / seconds[0]
