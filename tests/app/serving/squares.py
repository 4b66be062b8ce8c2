"""A batch function on numbers that tests can hold and make fail."""

import asyncio
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from app.serving.batcher import BatchResult, DynamicBatcher
from tests.constants import WAIT_S

TICKS = 8  # iterations of the event loop that run every task that is ready


class Squares:
    """Squares its items. Batches can be held with ``gate``, and fail on the items in ``failures``."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.failures: dict[int, Exception] = {}
        self._started = threading.Semaphore(0)

    def __call__(self, items: Sequence[int]) -> list[int]:
        self.batches.append(list(items))
        self._started.release()
        assert self.gate.wait(WAIT_S)
        for item in items:
            if item in self.failures:
                raise self.failures[item]
        return [item * item for item in items]

    async def batch_started(self) -> None:
        """Waits until one more batch has started."""
        assert await asyncio.to_thread(self._started.acquire, timeout=WAIT_S)


Batcher = DynamicBatcher[int, int]


@contextmanager
def running(squares: Squares, **options: Any) -> Iterator[Batcher]:  # Any: the batcher's keyword arguments
    """Returns a batcher of numbers that is closed at the end."""
    batcher = Batcher(squares, **{"max_batch_size": 4} | options)
    try:
        yield batcher
    finally:
        batcher.close()


def submit(batcher: Batcher, *items: int, timeout_s: float = WAIT_S) -> list[asyncio.Task[BatchResult[int]]]:
    """Submits each item in a task of its own."""

    async def one_item(item: int) -> BatchResult[int]:
        async with asyncio.timeout(timeout_s):
            return await batcher.submit(item)

    return [asyncio.create_task(one_item(item)) for item in items]


async def ticks() -> None:
    """Runs every task that is ready."""
    for _ in range(TICKS):
        await asyncio.sleep(0)
