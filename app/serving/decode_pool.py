"""DecodePool: decodes images on a fixed number of threads."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from app.serving.errors import Unavailable
from app.serving.results import Pixels
from model.errors import InvalidImage

_DEAD_AFTER = 6  # times the decode limit that every thread is stuck
_MAX_PENDING = 4  # images that a thread can take without waiting for the event loop


@dataclass(eq=False, slots=True)
class _DecodeJob:
    """One image."""

    data: bytes
    future: asyncio.Future[Pixels]
    started_at: float | None = None  # None while it waits for a thread


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
        self._jobs: set[_DecodeJob] = set()  # until their threads are done with them
        self._timer: asyncio.TimerHandle | None = None

    async def run(self, data: bytes) -> Pixels:
        """Returns ``decode(data)``. Raises ``InvalidImage`` if it takes too long, ``Unavailable`` if closed."""
        await self._free.acquire()
        if self._closed:
            self._free.release()
            raise Unavailable("The service is shutting down.")
        loop = asyncio.get_running_loop()
        job = _DecodeJob(data, loop.create_future())
        pending = self.executor.submit(self._run, job, loop)
        self._jobs.add(job)
        if self._timer is None:
            self._timer = loop.call_later(self._timeout_s, self._check_times)
        try:
            return await job.future
        except asyncio.CancelledError:
            if pending.cancel():
                job.data = b""  # the executor keeps the job until its turn
                self._end(job)
            raise

    @property
    def stuck_s(self) -> float:
        """For how long every thread has been stuck, in seconds; 0 while one is not."""
        started_at = [job.started_at for job in self._jobs if job.started_at is not None]
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
        if self._timer is not None:
            self._timer.cancel()
        for job in [job for job in self._jobs if job.started_at is None]:
            self._end(job, error=Unavailable("The service is shutting down."))

    def _run(self, job: _DecodeJob, loop: asyncio.AbstractEventLoop) -> None:
        job.started_at = time.monotonic()
        try:
            pixels = self._decode(job.data)
        except BaseException as error:  # noqa: BLE001 - whatever it is, it belongs to the caller
            loop.call_soon_threadsafe(self._end, job, None, error)
        else:
            loop.call_soon_threadsafe(self._end, job, pixels)

    def _end(
        self,
        job: _DecodeJob,
        pixels: Any = None,  # Any: the result of decode
        error: BaseException | None = None,
    ) -> None:
        """Passes the result on, unless the caller was cancelled or timed out; another image may take its place."""
        if job not in self._jobs:
            return  # closed while a thread was about to take it
        self._jobs.remove(job)
        self._free.release()
        if job.future.done():
            return
        if error is not None:
            job.future.set_exception(error)
        else:
            job.future.set_result(pixels)

    def _check_times(self) -> None:
        """Fails the jobs that take too long; one timer is enough for all of them."""
        now = time.monotonic()
        deadlines = []
        for job in self._jobs:
            deadline = (now if job.started_at is None else job.started_at) + self._timeout_s
            if deadline > now:
                deadlines.append(deadline)
            elif not job.future.done():
                limit = f"Decoding the image took longer than the limit of {self._timeout_s:g} s."
                job.future.set_exception(InvalidImage(limit))
        self._timer = None
        if deadlines:
            self._timer = asyncio.get_running_loop().call_later(min(deadlines) - now, self._check_times)
