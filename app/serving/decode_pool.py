"""DecodePool: decodes images on a fixed number of threads."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from app.serving.errors import Unavailable
from model.errors import InvalidImage
from model.preprocess import Pixels

_DEAD_AFTER = 6  # times the decode limit that every thread is stuck
_MAX_PENDING = 4  # images that a thread can take without waiting for the event loop


class _Job:
    """One image; ``started_at`` is None while it waits for a thread."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.started_at: float | None = None


class DecodePool:
    """Runs ``decode(data)`` on ``threads`` threads; one that takes longer than ``timeout_s`` seconds is stuck.

    A thread cannot be killed: a stuck one keeps its place until it returns. ``executor`` has the threads, for other
    tasks that should share them.
    """

    def __init__(self, decode: Callable[[bytes], Pixels], *, threads: int, timeout_s: float) -> None:
        self.executor = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        self._decode = decode
        self._threads = threads
        self._timeout_s = timeout_s
        self._closed = False
        self._free = asyncio.Semaphore(threads + _MAX_PENDING)
        self._jobs: dict[asyncio.Future[Pixels], _Job] = {}

    async def run(self, data: bytes) -> Pixels:
        """Returns ``decode(data)``. Raises ``InvalidImage`` if it takes too long, ``Unavailable`` if closed."""
        await self._free.acquire()  # released when the thread is done, not when the caller is cancelled
        if self._closed:
            self._free.release()
            raise Unavailable("The service is shutting down.")
        job = _Job(data)
        pending = self.executor.submit(self._run, job)
        future = asyncio.wrap_future(pending)
        self._jobs[future] = job
        future.add_done_callback(self._on_done)
        try:
            await self._wait(future, job)
        except asyncio.CancelledError:
            if pending.cancel():
                job.data = b""  # the executor keeps the job until its turn
            raise
        if future.cancelled():
            raise Unavailable("The service is shutting down.")
        return future.result()

    @property
    def stuck_s(self) -> float:
        """For how long every thread has been stuck, in seconds; 0 while one is not."""
        started_at = [job.started_at for job in self._jobs.values() if job.started_at is not None]
        if len(started_at) < self._threads:
            return 0.0
        return max(0.0, time.monotonic() - max(started_at) - self._timeout_s)

    @property
    def dead(self) -> bool:
        """Whether all threads have been stuck for so long that only a restart helps."""
        return self.stuck_s > _DEAD_AFTER * self._timeout_s

    def close(self) -> None:
        """Stops the threads once they have returned; what waits for one gets ``Unavailable``. Does not wait."""
        self._closed = True
        self.executor.shutdown(wait=False, cancel_futures=True)

    def _run(self, job: _Job) -> Pixels:
        job.started_at = time.monotonic()
        return self._decode(job.data)

    async def _wait(self, future: asyncio.Future[Pixels], job: _Job) -> None:
        """Returns when ``future`` is done; raises ``InvalidImage`` if decoding takes longer than the limit."""
        while not future.done():
            elapsed_s = 0.0 if job.started_at is None else time.monotonic() - job.started_at
            if elapsed_s >= self._timeout_s:
                raise InvalidImage(f"Decoding the image took longer than the limit of {self._timeout_s:g} s.")
            await asyncio.wait([future], timeout=self._timeout_s - elapsed_s)

    def _on_done(self, future: asyncio.Future[Pixels]) -> None:
        del self._jobs[future]
        self._free.release()
        if not future.cancelled():
            future.exception()  # of a request that was cancelled, whose error nobody else retrieves
