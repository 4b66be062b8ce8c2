"""DynamicBatcher: gathers concurrent items into batches for one worker thread.

A batch forms while the previous one runs, never by waiting while the worker is idle (unless a delay is asked for).
"""

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from app.serving.errors import DeadlineExceeded, Overloaded, Unavailable

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")

_RATE_WEIGHT = 0.2  # of the newest batch in the moving drain rate


@dataclass(frozen=True)
class Answer(Generic[Result]):
    """One item's result and where its time went."""

    result: Result
    queue_s: float
    run_s: float
    batch_size: int


@dataclass(eq=False)
class _Entry(Generic[Item, Result]):
    item: Item
    deadline: float  # of the loop's clock, like every time here
    answered: asyncio.Future[Answer[Result]]
    enqueued_at: float = field(default_factory=time.monotonic)


class Slot(Generic[Item, Result]):
    """A reserved place in the queue, to be filled once."""

    def __init__(self, batcher: "DynamicBatcher[Item, Result]") -> None:
        self._batcher = batcher
        self.filled = False

    async def fill(self, item: Item, deadline: float) -> Answer[Result]:
        """Queues ``item`` and waits for its answer, until ``deadline`` (s of ``time.monotonic``).

        Raises ``DeadlineExceeded``, or ``Unavailable`` where the batch failed or the batcher was closed.
        """
        self.filled = True
        return await self._batcher._answer(item, deadline)  # noqa: SLF001 - the slot is the batcher's other half


class DynamicBatcher(Generic[Item, Result]):
    """Runs ``run(items)`` on one thread, for up to ``max_batch_size`` of the items that wait.

    ``run`` gives one result an item, in order; what it raises reaches every waiter of that batch alone, unless it is
    one of ``fatal``, after which nothing is admitted any more. At most ``max_queue_size`` items are reserved or
    waiting. A run longer than ``stall_after_s`` counts as failed for as long as it lasts. ``expected_rate`` is the
    items a second to reckon with until it is measured.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Item]], Sequence[Result]],
        *,
        max_batch_size: int,
        max_queue_size: int,
        max_queue_delay_s: float = 0.0,
        stall_after_s: float = 60.0,
        fatal: tuple[type[Exception], ...] = (),
        expected_rate: float = 0.0,
        on_batch: Callable[[int, float], None] = lambda size, run_s: None,
    ) -> None:
        self._run = run
        self._max_batch_size = max_batch_size
        self._max_queue_size = max_queue_size
        self._max_queue_delay_s = max_queue_delay_s
        self._stall_after_s = stall_after_s
        self._fatal = fatal
        self._on_batch = on_batch
        self._waiting: deque[_Entry[Item, Result]] = deque()
        self._running: list[_Entry[Item, Result]] = []
        self._run_started_at: float | None = None
        self._reserved = 0
        self._rate = expected_rate  # items a second, over the last full batches
        self._arrived = asyncio.Event()
        self._failure: str | None = "the batcher is not started"
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="engine")
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins to form batches, in the running event loop."""
        self._failure = None
        self._task = asyncio.create_task(self._form_batches(), name="batcher")
        self._task.add_done_callback(self._on_loop_end)

    async def close(self) -> None:
        """Ends at once: what still waits or runs gets ``Unavailable``; drain first by no longer reserving."""
        self._fail("the service is shutting down")
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        self._thread.shutdown(wait=False, cancel_futures=True)

    @property
    def queue_length(self) -> int:
        """How many items are reserved or waiting, those in the running batch not counted."""
        return self._reserved + len(self._waiting)

    @property
    def failure(self) -> str | None:
        """Why nothing can be answered, or None while all is well."""
        if self._failure is None and self._run_started_at is not None:
            lasted_s = time.monotonic() - self._run_started_at
            if lasted_s > self._stall_after_s:
                return f"the running batch has not ended for {lasted_s:.0f} s"
        return self._failure

    @contextmanager
    def reserve(self, deadline: float = math.inf) -> Iterator[Slot[Item, Result]]:
        """Admits one item, before the work of making it.

        Raises ``Unavailable``, or ``Overloaded`` where the queue is full or, at the measured rate, too long for
        ``deadline`` (s of ``time.monotonic``).
        """
        if self.failure is not None:
            raise Unavailable(f"No prediction can be made: {self.failure}.")
        wait_s = self.queue_length / self._rate if self._rate else 0.0
        if self.queue_length >= self._max_queue_size:
            raise Overloaded(f"All {self._max_queue_size} places in the queue are taken.", wait_s)
        if wait_s > max(0.0, deadline - time.monotonic()):
            raise Overloaded(f"The queue takes about {wait_s:.1f} s, more than the request has left.", wait_s)
        slot = Slot(self)
        self._reserved += 1
        try:
            yield slot
        finally:
            if not slot.filled:
                self._reserved -= 1

    async def _answer(self, item: Item, deadline: float) -> Answer[Result]:
        self._reserved -= 1
        if self._failure is not None:
            raise Unavailable(f"No prediction can be made: {self._failure}.")
        loop = asyncio.get_running_loop()
        entry = _Entry(item, deadline, loop.create_future())
        self._waiting.append(entry)
        self._arrived.set()
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                return await entry.answered
        except TimeoutError as error:
            raise DeadlineExceeded("The answer was not there before the request's deadline.") from error
        finally:
            if entry.answered.cancelled() and entry in self._waiting:
                self._waiting.remove(entry)  # an abandoned or expired entry frees its place at once

    async def _form_batches(self) -> None:
        while True:
            await self._arrived.wait()
            if self._max_queue_delay_s:
                await self._linger()
            batch = self._take()
            if batch:
                await self._run_batch(batch)

    async def _linger(self) -> None:
        """Waits for a full batch until the oldest entry has waited its delay."""
        while self._waiting and len(self._waiting) < self._max_batch_size:
            self._arrived.clear()
            left_s = self._waiting[0].enqueued_at + self._max_queue_delay_s - time.monotonic()
            try:
                async with asyncio.timeout(left_s):
                    await self._arrived.wait()
            except TimeoutError:
                return

    def _take(self) -> list[_Entry[Item, Result]]:
        """The next batch, oldest first, without what was abandoned or has expired."""
        batch: list[_Entry[Item, Result]] = []
        now = time.monotonic()
        while self._waiting and len(batch) < self._max_batch_size:
            entry = self._waiting.popleft()
            if not entry.answered.done() and entry.deadline > now:
                batch.append(entry)
        if not self._waiting:
            self._arrived.clear()
        return batch

    async def _run_batch(self, batch: list[_Entry[Item, Result]]) -> None:
        started_at = time.monotonic()
        self._running, self._run_started_at = batch, started_at
        items = [entry.item for entry in batch]
        try:
            results = await asyncio.get_running_loop().run_in_executor(self._thread, self._run, items)
            if len(results) != len(batch):
                raise RuntimeError(f"{len(results)} results for {len(batch)} items")  # noqa: TRY301
        except Exception as error:  # whatever a run raises, its waiters must hear of it and the loop lives on
            logger.exception("a batch of %d failed", len(batch))
            if isinstance(error, self._fatal):
                self._fail(f"the engine is beyond use ({error})")
            _refuse(batch, Unavailable("The engine failed on this batch; the request may be sent again."), error)
        else:
            run_s = time.monotonic() - started_at
            self._note_rate(len(batch), run_s)
            self._on_batch(len(batch), run_s)
            for entry, result in zip(batch, results, strict=True):
                if not entry.answered.done():
                    entry.answered.set_result(Answer(result, started_at - entry.enqueued_at, run_s, len(batch)))
        finally:
            self._run_started_at = None
        self._running = []  # not where the loop ends by an error: whoever has no answer yet still gets one

    def _note_rate(self, size: int, run_s: float) -> None:
        """Full batches alone tell how fast a queue drains, unless nothing else has told it yet."""
        if size == self._max_batch_size or not self._rate:
            self._rate += (size / max(run_s, 1e-6) - self._rate) * (_RATE_WEIGHT if self._rate else 1)

    def _fail(self, why: str) -> None:
        """Admits nothing more, and answers all who wait or run."""
        self._failure = why
        entries = [*self._waiting, *self._running]
        self._waiting.clear()
        _refuse(entries, Unavailable(f"No prediction can be made: {why}."), None)

    def _on_loop_end(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            logger.critical("the batcher ended", exc_info=task.exception())
            self._fail("the batcher ended")


def _refuse(entries: Sequence[_Entry[Item, Result]], refusal: Unavailable, cause: Exception | None) -> None:
    for entry in entries:
        if not entry.answered.done():
            error = Unavailable(*refusal.args)  # one each: a raised exception collects its waiter's traceback
            error.__cause__ = cause
            entry.answered.set_exception(error)
