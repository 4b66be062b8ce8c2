"""DecodePool: decodes images on a fixed number of threads."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from app.serving.errors import Unavailable
from model.errors import InvalidImage
from model.preprocess import Pixels

_DEAD_AFTER = 6  # times the decode limit that every thread is stuck


class DecodePool:
    """Runs ``decode(data)`` on ``threads`` threads; one that takes longer than ``timeout_s`` seconds is stuck.

    A thread cannot be killed: a stuck one keeps its place until it returns.
    """

    def __init__(self, decode: Callable[[bytes], Pixels], *, threads: int, timeout_s: float) -> None:
        self._decode = decode
        self._threads = threads
        self._timeout_s = timeout_s
        self._closed = False
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        self._free = asyncio.Semaphore(threads)
        self._started_at: dict[asyncio.Future[Pixels], float] = {}

    async def run(self, data: bytes) -> Pixels:
        """Returns ``decode(data)``. Raises ``InvalidImage`` if it takes too long, ``Unavailable`` if closed."""
        await self._free.acquire()  # released when the thread is done, not when the caller is cancelled
        if self._closed:
            self._free.release()
            raise Unavailable("The service is shutting down.")
        future = asyncio.get_running_loop().run_in_executor(self._executor, self._decode, data)
        self._started_at[future] = time.monotonic()
        future.add_done_callback(self._on_done)
        try:
            async with asyncio.timeout(self._timeout_s):
                return await asyncio.shield(future)
        except TimeoutError as error:
            raise InvalidImage(f"Decoding the image took longer than the limit of {self._timeout_s:g} s.") from error

    @property
    def stuck_s(self) -> float:
        """For how long every thread has been stuck, in seconds; 0 while one is not."""
        if len(self._started_at) < self._threads:
            return 0.0
        newest = max(self._started_at.values())
        return max(0.0, time.monotonic() - newest - self._timeout_s)

    @property
    def dead(self) -> bool:
        """Whether all threads have been stuck for so long that only a restart helps."""
        return self.stuck_s > _DEAD_AFTER * self._timeout_s

    def close(self) -> None:
        """Stops the threads once they have returned; what waits for one gets ``Unavailable``. Does not wait."""
        self._closed = True
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _on_done(self, future: asyncio.Future[Pixels]) -> None:
        del self._started_at[future]
        self._free.release()
