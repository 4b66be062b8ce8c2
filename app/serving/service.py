"""ClassificationService: encoded image in; most probable classes, embedding or explanation out."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from app.serving.admission import Admission, Slots
from app.serving.batcher import DynamicBatcher
from app.serving.decode_pool import DecodePool
from app.serving.errors import InvalidParameter, Unavailable
from app.serving.results import Classification, ClassifyOptions, Embedding, Explanation, Pixels, Timings
from app.serving.telemetry import Telemetry
from model.errors import DeviceLost
from model.head import ActivationMap, Prediction, scores, top_predictions

if TYPE_CHECKING:  # importing it would import torch
    from model.inference.engine import InferenceEngine

logger = logging.getLogger(__name__)

Array = npt.NDArray[np.float32]
Result = TypeVar("Result")
Status = Literal["ready", "draining", "failing", "failed"]

_FAILING_AFTER = 3  # batches that failed in a row
_FAILED_AFTER = 10
_MIN_STALL_S = 30.0
_FULL_BATCHES = 8  # that are admitted whatever the rate
_DEFAULT_OPTIONS = ClassifyOptions()


@dataclass(frozen=True)
class Limits:
    """What the service admits; times in seconds."""

    default_top_k: int
    max_queue_size: int
    max_queue_wait_s: float
    request_timeout_s: float
    max_queue_delay_s: float
    decode_threads: int
    decode_timeout_s: float
    probe_interval_s: float = 1.0


class _Outputs(NamedTuple):
    """What the network computes of one image."""

    logits: Array  # (num_classes,)
    probabilities: Array  # (num_classes,), of the model's output function
    features: Array  # (K, H, W), the last feature map; empty unless the job needs it


@dataclass(frozen=True, slots=True)
class _PredictionJob:
    """One image, and what is computed of the network's outputs for it."""

    pixels: Pixels  # (H, W, 3) uint8
    compute: Callable[[_Outputs], object]
    needs_features: bool = True


class ClassificationService:
    """Decodes images on threads with ``decode``, batches them into ``engine`` and labels the result."""

    def __init__(
        self, engine: "InferenceEngine", decode: Callable[[bytes], Pixels], telemetry: Telemetry, limits: Limits
    ) -> None:
        self.engine = engine
        self._telemetry = telemetry
        self._default_top_k = min(limits.default_top_k, len(engine.model.labels))
        self._decoders = DecodePool(decode, threads=limits.decode_threads, timeout_s=limits.decode_timeout_s)
        self._admission = Admission(
            max_slots=limits.max_queue_size,
            max_wait_s=limits.max_queue_wait_s,
            min_slots=limits.decode_threads + 2 * engine.concurrency,
            batched_slots=_FULL_BATCHES * engine.max_batch_size,
            max_batched_wait_s=limits.request_timeout_s / 2,
            expected_rate=engine.expected_rate,
        )
        self._batcher = DynamicBatcher[_PredictionJob, Any](  # Any: what the job computes; None if that failed
            self._run,
            max_batch_size=engine.max_batch_size,
            workers=engine.concurrency,
            executor=self._decoders.executor if _shares_threads(engine, limits.decode_threads) else None,
            max_queue_delay_s=limits.max_queue_delay_s,
            stall_after_s=stall_after_s(engine),
            fatal=(DeviceLost,),
            on_batch=telemetry.on_batch,
        )
        telemetry.watch_images(lambda: self.images_in_service)
        self._probe_interval_s = limits.probe_interval_s
        self._probe: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins to serve, in the running event loop."""
        self._probe = asyncio.create_task(self._probe_while_failing(), name="engine probe")

    @property
    def failure(self) -> str | None:
        """Why no prediction can be made, or None."""
        if self._batcher.failure is not None:
            return self._batcher.failure
        if self._batcher.consecutive_failures >= _FAILING_AFTER:
            return f"the last {self._batcher.consecutive_failures} batches failed"
        if self._decoders.stuck_s:
            return f"every decode thread has been stuck for {self._decoders.stuck_s:.0f} s"
        return None

    @property
    def status(self) -> Status:
        """``failing`` can recover without help, ``failed`` needs a restart."""
        failures = self._batcher.consecutive_failures
        if self._batcher.failure is not None or failures >= _FAILED_AFTER or self._decoders.dead:
            return "failed"
        if self.draining:
            return "draining"
        return "ready" if self.failure is None else "failing"

    @property
    def images_in_service(self) -> int:
        """Images admitted and not yet completed."""
        return self._admission.in_service

    @property
    def queue_length(self) -> int:
        """Decoded images that wait for a batch."""
        return self._batcher.queue_length

    @property
    def draining(self) -> bool:
        """Whether nothing is admitted any more."""
        return self._admission.closed_reason is not None

    def check_admission(self) -> None:
        """Raises ``Unavailable`` or ``Overloaded`` if a request would be rejected now."""
        if not self.draining and (failure := self.failure) is not None:
            raise Unavailable(f"No prediction can be made: {failure}.")
        self._admission.check()

    def admit(self) -> AbstractContextManager[Slots]:
        """Spans one request from its headers to its response. Raises ``Unavailable`` or ``Overloaded``."""
        self.check_admission()
        return self._admission.admit()

    async def classify(self, data: bytes, options: ClassifyOptions = _DEFAULT_OPTIONS) -> Classification:
        """The most probable classes of one encoded image.

        Raises ``InvalidParameter``, ``Unavailable`` and the image errors of ``model.errors``.
        """
        top_k = self._check_top_k(options.top_k)
        labels = self.engine.model.labels
        pixels, decode_s = await self._decode(data)

        def label(outputs: _Outputs) -> tuple[list[Prediction], Array, float]:
            function, top = options.function, float(outputs.probabilities.max())
            own = outputs.probabilities if function is None else scores(outputs.logits, function)
            return top_predictions(own, labels, top_k, options.min_probability or None), outputs.logits, top

        job = _PredictionJob(pixels, label, needs_features=False)
        (predictions, logits, top), timings = await self._compute(job, decode_s)
        self._telemetry.on_top_probability(top)
        return Classification(predictions, logits, timings)

    async def embed(self, data: bytes) -> Embedding:
        """The feature vector of one encoded image. Raises ``Unavailable`` and the image errors of ``model.errors``."""
        pixels, decode_s = await self._decode(data)
        job = _PredictionJob(pixels, lambda outputs: self.engine.head.embed(outputs.features))
        vector, timings = await self._compute(job, decode_s)
        return Embedding(vector, timings)

    async def explain(self, data: bytes, class_id: int | None = None) -> Explanation:
        """Where one encoded image shows the class ``class_id``, or the most probable class.

        Raises ``InvalidParameter``, ``Unavailable`` and the image errors of ``model.errors``.
        """
        if class_id is not None and not 0 <= class_id < len(self.engine.model.labels):
            raise InvalidParameter(f"class_id: {class_id} is not between 0 and {len(self.engine.model.labels) - 1}.")
        pixels, decode_s = await self._decode(data)

        def explain(outputs: _Outputs) -> tuple[Prediction, float, ActivationMap]:
            index = int(outputs.logits.argmax()) if class_id is None else class_id
            prediction = Prediction(self.engine.model.labels[index], index, float(outputs.probabilities[index]))
            return prediction, float(outputs.logits[index]), self.engine.head.activation_map(outputs.features, index)

        (prediction, logit, activation), timings = await self._compute(_PredictionJob(pixels, explain), decode_s)
        return Explanation(prediction, logit, activation, pixels, timings)

    async def _decode(self, data: bytes) -> tuple[Pixels, float]:
        """The pixels, and how long they took in seconds."""
        started_at = monotonic()
        try:
            pixels = await self._decoders.run(data)
        except MemoryError as error:
            raise Unavailable("There is not enough memory to decode the image.") from error
        return pixels, monotonic() - started_at

    async def _compute(self, job: _PredictionJob, decode_s: float) -> tuple[Any, Timings]:  # Any: what the job computes
        result = await self._batcher.submit(job)
        self._admission.note_completed()
        if result.value is None:
            raise Unavailable("The network returned a result that is not finite for this image.")
        self._telemetry.on_image(decode_s, result.queue_s, result.run_s)
        return result.value, Timings(decode_s, result.queue_s, result.run_s)

    async def drain(self, grace_s: float) -> None:
        """Admits nothing more and waits for what was admitted; closes after ``grace_s`` seconds."""
        self._admission.closed_reason = "The service is shutting down."
        try:
            async with asyncio.timeout(grace_s):
                await self._admission.wait_until_idle()
        except TimeoutError:
            logger.warning(
                "%d requests were not completed within the grace period of %.0f s", self._admission.requests, grace_s
            )
            self.close()

    def close(self) -> None:
        """Stops the threads; every request that still waits gets ``Unavailable``."""
        self._admission.closed_reason = "The service is shutting down."
        if self._probe is not None:
            self._probe.cancel()
        self._batcher.close()
        self._decoders.close()

    def _check_top_k(self, top_k: int | None) -> int:
        if top_k is None:
            return self._default_top_k
        if not 1 <= top_k <= len(self.engine.model.labels):
            raise InvalidParameter(f"top_k: {top_k} is not between 1 and {len(self.engine.model.labels)}.")
        return top_k

    def _run(self, jobs: Sequence[_PredictionJob]) -> list[object]:
        """What each job computes; None where the logits are not finite, which fails that image alone.

        Jobs of all kinds share one forward pass.
        """
        pixels = [job.pixels for job in jobs]
        idle = self.images_in_service == 1
        if any(job.needs_features for job in jobs):
            # (N, num_classes), (N, K, H, W) float32
            logits, features = self.engine.predict_with_features(pixels, idle=idle)
        else:
            logits, features = self.engine.predict(pixels, idle=idle), np.empty((len(jobs), 0), np.float32)
        # Whole arrays at a time: NumPy releases the interpreter lock in each operation, and waits for it again.
        finite: list[bool] = np.all(np.isfinite(logits), axis=1).tolist()
        with np.errstate(invalid="ignore"):  # rows that are not finite are not used
            outputs = map(_Outputs, logits, scores(logits, self.engine.model.activation), features)
        return [job.compute(own) if usable else None for job, own, usable in zip(jobs, outputs, finite, strict=True)]

    async def _probe_while_failing(self) -> None:
        """Runs a blank image every second while batches fail, so that the service notices when the engine recovers."""
        blank = np.zeros((self.engine.input_size, self.engine.input_size, 3), np.uint8)
        while True:
            await asyncio.sleep(self._probe_interval_s)
            if self._batcher.consecutive_failures >= _FAILING_AFTER and self._batcher.failure is None:
                try:
                    await self._batcher.submit(_PredictionJob(blank, lambda _outputs: True, needs_features=False))
                except Unavailable:
                    continue


def _shares_threads(engine: "InferenceEngine", decode_threads: int) -> bool:
    """Whether batches run on the decode threads.

    On a CPU, more threads than cores evict each other's data from the caches. A batch waits for the few images that are
    queued before it, and the next one is larger for it. PyTorch would start a thread pool for each decode thread.
    """
    return engine.mode == "openvino" and engine.concurrency <= decode_threads


def stall_after_s(engine: "InferenceEngine") -> float:
    """How long a batch may run before it counts as stalled: twenty times what a full one is expected to take."""
    if not engine.expected_rate:
        return 2 * _MIN_STALL_S
    return max(_MIN_STALL_S, 20.0 * engine.concurrency * engine.max_batch_size / engine.expected_rate)
