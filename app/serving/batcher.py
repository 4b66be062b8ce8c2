"""DynamicBatcher: collects concurrent items into batches for a few worker threads."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from app.serving.errors import Unavailable

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class BatchResult(Generic[Result]):
    """The result of one item, and where its time went."""

    value: Result
    queue_s: float
    run_s: float


@dataclass(eq=False, slots=True)
class _QueuedItem(Generic[Item, Result]):
    item: Item
    future: asyncio.Future[BatchResult[Result]]
    queued_at: float = field(default_factory=time.monotonic)


@dataclass(eq=False, slots=True)
class _Batch(Generic[Item, Result]):
    entries: list[_QueuedItem[Item, Result]]
    started_at: float | None = None  # None while it waits for a thread


class DynamicBatcher(Generic[Item, Result]):
    """Runs ``run(items)`` on ``workers`` threads, for up to ``max_batch_size`` waiting items at a time.

    A batch starts whenever a worker is free; what arrives while all are busy forms the next batches. With
    ``max_queue_delay_s``, a free worker waits that long for a fuller batch. ``run`` returns one result per item, in
    order. An exception that it raises reaches every item of that batch and no other; after one of the types in
    ``fatal`` the batcher accepts nothing more. A batch that runs for longer than ``stall_after_s`` counts as a failure
    while it lasts. ``on_batch(size, run_s)`` is called after each successful batch. The threads are those of
    ``executor``, if given, which the batcher does not stop.

    ``Admission`` bounds the queue. All methods belong to the event loop.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Item]], Sequence[Result]],
        *,
        max_batch_size: int,
        workers: int = 1,
        executor: ThreadPoolExecutor | None = None,
        max_queue_delay_s: float = 0.0,
        stall_after_s: float = 60.0,
        fatal: tuple[type[Exception], ...] = (),
        on_batch: Callable[[int, float], None] = lambda size, run_s: None,
    ) -> None:
        self.consecutive_failures = 0
        self._run = run
        self._max_batch_size = max_batch_size
        self._free_workers = workers
        self._max_queue_delay_s = max_queue_delay_s
        self._stall_after_s = stall_after_s
        self._fatal = fatal
        self._on_batch = on_batch
        self._waiting: deque[_QueuedItem[Item, Result]] = deque()
        self._running: dict[asyncio.Future[Sequence[Result]], _Batch[Item, Result]] = {}
        self._closed_reason: str | None = None
        self._threads = executor or ThreadPoolExecutor(workers, thread_name_prefix="engine")
        self._owns_threads = executor is None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def queue_length(self) -> int:
        """How many items wait for a batch."""
        return len(self._waiting)

    @property
    def failure(self) -> str | None:
        """Why no item can be processed, or None."""
        if self._closed_reason is None:
            now = time.monotonic()
            running_s = max((now - (batch.started_at or now) for batch in self._running.values()), default=0.0)
            if running_s > self._stall_after_s:
                return f"a batch has been running for {running_s:.0f} s"
        return self._closed_reason

    async def submit(self, item: Item) -> BatchResult[Result]:
        """Queues ``item`` and waits for its result; cancelling the call removes it from the queue.

        Raises ``Unavailable`` if the batch failed or the batcher is closed.
        """
        if self._closed_reason is not None:
            raise Unavailable(f"No prediction can be made: {self._closed_reason}.")
        entry: _QueuedItem[Item, Result] = _QueuedItem(item, asyncio.get_running_loop().create_future())
        self._waiting.append(entry)
        self._dispatch()
        try:
            return await entry.future
        finally:
            if entry.future.cancelled() and entry in self._waiting:
                self._waiting.remove(entry)

    def close(self, reason: str = "the service is shutting down") -> None:
        """Accepts nothing more; every item that waits or runs gets ``Unavailable``. Does not wait for the threads."""
        self._closed_reason = reason
        entries = [*self._waiting, *(entry for batch in self._running.values() for entry in batch.entries)]
        self._waiting.clear()
        _fail(entries, f"No prediction can be made: {reason}.", None)
        if self._timer is not None:
            self._timer.cancel()
        if self._owns_threads:
            self._threads.shutdown(wait=False, cancel_futures=True)

    def _dispatch(self) -> None:
        """Starts batches while there are free workers and waiting items."""
        while self._free_workers and self._waiting:
            if self._max_queue_delay_s and self._wait_for_more():
                return
            if batch := self._take():
                self._start(batch)

    def _take(self) -> list[_QueuedItem[Item, Result]]:
        """The next batch, oldest first, without cancelled items."""
        batch: list[_QueuedItem[Item, Result]] = []
        while self._waiting and len(batch) < self._max_batch_size:
            entry = self._waiting.popleft()
            if not entry.future.done():
                batch.append(entry)
        return batch

    def _wait_for_more(self) -> bool:
        """Whether the next batch is not full and its oldest item may still wait; if so, sets the timer."""
        if self._timer is not None:
            self._timer.cancel()
        remaining_s = self._waiting[0].queued_at + self._max_queue_delay_s - time.monotonic()
        if len(self._waiting) >= self._max_batch_size or remaining_s <= 0:
            return False
        self._timer = asyncio.get_running_loop().call_later(remaining_s, self._dispatch)
        return True

    def _start(self, entries: list[_QueuedItem[Item, Result]]) -> None:
        self._free_workers -= 1
        batch = _Batch(entries)
        future = asyncio.get_running_loop().run_in_executor(self._threads, self._run_batch, batch)
        self._running[future] = batch
        future.add_done_callback(self._finish)

    def _run_batch(self, batch: _Batch[Item, Result]) -> Sequence[Result]:
        batch.started_at = time.monotonic()
        return self._run([entry.item for entry in batch.entries])

    def _finish(self, future: asyncio.Future[Sequence[Result]]) -> None:
        batch = self._running.pop(future)
        self._free_workers += 1
        if future.cancelled():  # by close, before a thread took it; its items have their error
            return
        try:
            self._deliver(batch, future.result())
        except Exception as error:  # noqa: BLE001 - anything that a batch raises is passed on to its items
            self._fail_batch(batch.entries, error)
        if self._closed_reason is None:
            self._dispatch()

    def _deliver(self, batch: _Batch[Item, Result], results: Sequence[Result]) -> None:
        assert batch.started_at is not None  # noqa: S101 - it has results
        run_s = time.monotonic() - batch.started_at
        if len(results) != len(batch.entries):
            raise ValueError(f"{len(results)} results for {len(batch.entries)} items")
        for entry, result in zip(batch.entries, results, strict=True):
            if not entry.future.done():
                queue_s = batch.started_at - entry.queued_at
                entry.future.set_result(BatchResult(result, queue_s, run_s))
        self.consecutive_failures = 0
        self._on_batch(len(results), run_s)

    def _fail_batch(self, batch: list[_QueuedItem[Item, Result]], error: Exception) -> None:
        self.consecutive_failures += 1
        logger.error("a batch of %d failed", len(batch), exc_info=error)
        _fail(batch, "The engine failed on this batch; the request can be sent again.", error)
        if isinstance(error, self._fatal):
            self.close(f"the engine is lost ({error})")


def _fail(entries: Sequence[_QueuedItem[Item, Result]], message: str, cause: Exception | None) -> None:
    for entry in entries:
        if not entry.future.done():
            error = Unavailable(message)  # one per item, as a raised exception collects its traceback
            error.__cause__ = cause
            entry.future.set_exception(error)
