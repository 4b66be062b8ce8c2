"""Classifier: upload bytes → labelled top-k; the one use case."""

import asyncio
import logging
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np

from app.serving.batcher import DynamicBatcher
from app.serving.errors import (
    DeadlineExceeded,
    InvalidParameter,
    InvalidRequest,
    TooManyPixels,
    Unavailable,
    UnreadableImage,
    UnsupportedMediaType,
)
from app.serving.telemetry import Telemetry
from model import errors
from model.inference.engine import InferenceEngine
from model.preprocess import Pixels, load_decoders, preprocess

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LabelledClass:
    """One class of an answer."""

    label: str
    class_id: int
    probability: float


@dataclass(frozen=True)
class Classification:
    """An answer, highest probability first, and where its time went."""

    classes: list[LabelledClass]
    decode_s: float
    queue_s: float
    inference_s: float


@dataclass(frozen=True)
class _Job:
    pixels: Pixels  # (H, W, 3) uint8
    top_k: int


class Classifier:
    """Decodes uploads on threads of its own, batches them into ``engine`` and names the classes.

    ``max_queue_size`` bounds what is admitted and not yet in a batch; ``default_top_k`` serves requests that name none.
    """

    def __init__(
        self,
        engine: InferenceEngine,
        telemetry: Telemetry,
        *,
        default_top_k: int,
        max_queue_size: int,
        max_queue_delay_s: float,
        max_image_pixels: int,
        decode_threads: int,
    ) -> None:
        self.engine = engine
        self._telemetry = telemetry
        self._default_top_k = min(default_top_k, len(engine.model.labels))
        self._max_image_pixels = max_image_pixels
        self._decoders = ThreadPoolExecutor(decode_threads, thread_name_prefix="decode")
        self._batcher = DynamicBatcher[_Job, list[tuple[int, float]]](
            self._run,
            max_batch_size=engine.max_batch_size,
            max_queue_size=max_queue_size,
            max_queue_delay_s=max_queue_delay_s,
            fatal=(errors.DeviceLost,),
            expected_rate=engine.expected_rate,
            on_batch=telemetry.on_batch,
        )
        telemetry.watch_queue(lambda: self._batcher.queue_length)
        self._draining = False
        self._admitted = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def start(self) -> None:
        """Begins to serve, in the running event loop."""
        load_decoders()
        self._batcher.start()

    @property
    def status(self) -> Literal["ready", "draining", "failed"]:
        """Whether a request that comes now would be admitted."""
        if self._batcher.failure is not None:
            return "failed"
        return "draining" if self._draining else "ready"

    @contextmanager
    def admission(self) -> Iterator[None]:
        """Spans one request from its head to its answer; what is inside when the drain begins is still answered."""
        if self._draining:
            raise Unavailable("The service is shutting down.")
        self._admitted += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._admitted -= 1
            if not self._admitted:
                self._idle.set()

    async def drain(self, grace_s: float) -> None:
        """Admits nothing more and waits for what was admitted; after ``grace_s``, closes and so refuses the rest."""
        self._draining = True
        try:
            async with asyncio.timeout(grace_s):
                await self._idle.wait()
        except TimeoutError:
            logger.warning("%d requests were not answered within the grace of %.0f s", self._admitted, grace_s)
            await self.close()

    async def close(self) -> None:
        """Ends the batcher and the threads; what still waits gets ``Unavailable``."""
        self._draining = True
        await self._batcher.close()
        self._decoders.shutdown(wait=False, cancel_futures=True)

    async def classify(self, data: bytes, top_k: int | None, deadline: float) -> Classification:
        """The ``top_k`` most probable classes of one encoded image, by ``deadline`` (s of ``time.monotonic``).

        Raises the ``ServiceError`` that says what was wrong, before any decoding where the queue is full.
        """
        top_k = self._check_top_k(top_k)
        if not data:
            raise InvalidRequest("The image is empty.")
        with self._batcher.reserve(deadline) as slot:
            started_at = time.monotonic()
            pixels = await self._decode(data, deadline)
            decode_s = time.monotonic() - started_at
            answer = await slot.fill(_Job(pixels, top_k), deadline)
        self._telemetry.on_image(decode_s, answer.queue_s)
        classes = [LabelledClass(self.engine.model.labels[i], i, p) for i, p in answer.result]
        if not np.isfinite(classes[0].probability):
            raise Unavailable("The network gave no finite result for this image.")
        return Classification(classes, decode_s, answer.queue_s, answer.run_s)

    def _check_top_k(self, top_k: int | None) -> int:
        if top_k is None:
            return self._default_top_k
        if not 1 <= top_k <= len(self.engine.model.labels):
            raise InvalidParameter(f"top_k: {top_k} is not between 1 and {len(self.engine.model.labels)}.")
        return top_k

    async def _decode(self, data: bytes, deadline: float) -> Pixels:
        upload = [data]  # emptied at the end, as the executor holds on to what it has been given and not yet begun
        del data
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                return await asyncio.get_running_loop().run_in_executor(self._decoders, self._preprocess, upload)
        except asyncio.CancelledError:
            if self._draining and not _is_cancelled():  # the queue of the decoders was, by close
                raise Unavailable("The service is shutting down.") from None
            raise asyncio.CancelledError from None  # the executor holds on to the first one and the frames it passed
        except TimeoutError as error:
            raise DeadlineExceeded("The image was not decoded before the request's deadline.") from error
        except errors.UnsupportedFormat as error:
            raise UnsupportedMediaType(str(error)) from error
        except errors.ImageTooLarge as error:
            raise TooManyPixels(str(error)) from error
        except errors.InvalidImage as error:
            raise UnreadableImage(str(error)) from error
        except MemoryError as error:
            raise Unavailable("There is not enough memory to decode the image.") from error
        finally:
            upload.clear()

    def _preprocess(self, upload: list[bytes]) -> Pixels:
        return preprocess(upload.pop(), self.engine.model.transform, self._max_image_pixels)

    def _run(self, jobs: Sequence[_Job]) -> list[list[tuple[int, float]]]:
        top = self.engine.predict([job.pixels for job in jobs], max(job.top_k for job in jobs))
        rows = zip(top.class_ids.tolist(), top.probabilities.tolist(), jobs, strict=True)
        return [list(zip(ids, probabilities, strict=True))[: job.top_k] for ids, probabilities, job in rows]


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
