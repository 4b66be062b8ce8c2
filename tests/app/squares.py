"""A batcher of numbers, and the means to hold its runs and to fill its queue."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from app.serving.batcher import BatchResult, DynamicBatcher

WAIT_S = 20
TICKS = 8  # of the event loop: enough for whatever waits for nothing


class Squares:
    """A run that squares its items; it can be held at a gate, and fails on what is in ``fails``."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.fails: dict[int, Exception] = {}
        self._entered = threading.Semaphore(0)

    def __call__(self, items: Sequence[int]) -> list[int]:
        self.batches.append(list(items))
        self._entered.release()
        assert self.gate.wait(WAIT_S)
        for item in items:
            if item in self.fails:
                raise self.fails[item]
        return [item * item for item in items]

    async def entered(self) -> None:
        assert await asyncio.to_thread(self._entered.acquire, timeout=WAIT_S)


@asynccontextmanager
async def started(run, **options) -> AsyncIterator[DynamicBatcher[int, int]]:
    batcher = DynamicBatcher(run, **{"max_batch_size": 4} | options)
    try:
        yield batcher
    finally:
        batcher.close()


async def ask(batcher, item, timeout_s=WAIT_S) -> BatchResult[int]:
    async with asyncio.timeout(timeout_s):
        return await batcher.submit(item)


def ask_soon(batcher, *items, timeout_s=WAIT_S) -> list[asyncio.Task]:
    return [asyncio.ensure_future(ask(batcher, item, timeout_s)) for item in items]


async def ticks() -> None:
    for _ in range(TICKS):
        await asyncio.sleep(0)
