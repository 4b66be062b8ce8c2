"""DecodePool: the number of concurrent decoders, cancellation, and decoders that do not return."""

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from app.serving.decode_pool import DecodePool
from app.serving.errors import Unavailable
from model.errors import InvalidImage
from model.images.transform import Pixels
from tests.app.serving.squares import ticks
from tests.app.types import Until
from tests.constants import WAIT_S

pytestmark = pytest.mark.anyio

PIXELS = np.zeros((1, 1, 3), np.uint8)


class Upload(bytearray):
    """Bytes that can be weakly referenced."""


class Decoder:
    """A decoder that tests can hold, from its first image if it is ``held``."""

    def __init__(self, *, held: bool = False) -> None:
        self.gate = threading.Event()
        if not held:
            self.gate.set()
        self.running = 0
        self.most_running = 0
        self._lock = threading.Lock()

    def __call__(self, data: bytes) -> Pixels:
        with self._lock:
            self.running += 1
            self.most_running = max(self.most_running, self.running)
        try:
            assert self.gate.wait(WAIT_S)
        finally:
            with self._lock:
                self.running -= 1
        if data == b"bad":
            raise InvalidImage("bad")
        return PIXELS


@contextmanager
def pool_of(decoder: Decoder, threads: int = 2, timeout_s: float = WAIT_S) -> Iterator[DecodePool]:
    pool = DecodePool(decoder, threads=threads, timeout_s=timeout_s)
    try:
        yield pool
    finally:
        decoder.gate.set()
        pool.close()


async def test_returns_the_pixels_or_raises_the_error_of_the_decoder() -> None:
    with pool_of(Decoder()) as pool:
        assert await pool.run(b"good") is PIXELS
        with pytest.raises(InvalidImage):
            await pool.run(b"bad")


async def test_an_error_of_any_kind_reaches_the_caller_and_frees_the_thread() -> None:
    class Panic(BaseException):
        pass

    def panic(_data: bytes) -> Pixels:
        raise Panic

    pool = DecodePool(panic, threads=1, timeout_s=WAIT_S)
    for _ in range(10):
        with pytest.raises(Panic):
            await pool.run(b"")
    pool.close()


async def test_never_decodes_more_images_at_once_than_there_are_threads() -> None:
    decoder = Decoder()
    with pool_of(decoder) as pool:
        await asyncio.gather(*(pool.run(b"") for _ in range(50)))
    assert 1 <= decoder.most_running <= 2


async def test_a_cancelled_image_occupies_its_thread_until_the_decoder_returns(until: Until) -> None:
    decoder = Decoder(held=True)
    with pool_of(decoder, threads=1) as pool:
        cancelled = asyncio.create_task(pool.run(b""))
        await until(lambda: decoder.running == 1)
        cancelled.cancel()
        waiting = asyncio.create_task(pool.run(b""))
        await asyncio.wait([cancelled])
        await ticks()
        assert decoder.running == 1
        assert not waiting.done()
        decoder.gate.set()
        assert await waiting is PIXELS


async def test_a_decoder_that_takes_too_long_is_an_invalid_image_and_counts_as_stuck(until: Until) -> None:
    decoder = Decoder(held=True)
    with pool_of(decoder, threads=2, timeout_s=0.01) as pool:
        with pytest.raises(InvalidImage):
            await pool.run(b"")
        assert pool.stuck_s == 0  # one thread is free
        with pytest.raises(InvalidImage):
            await pool.run(b"")
        await until(lambda: pool.stuck_s > 0)
        await until(lambda: pool.dead)
        decoder.gate.set()
        await until(lambda: pool.stuck_s == 0)
        assert not pool.dead
        assert await pool.run(b"") is PIXELS


async def test_the_time_limit_starts_when_the_decoder_does(until: Until) -> None:
    limit_s = 0.2
    decoder = Decoder(held=True)
    with pool_of(decoder, threads=1, timeout_s=limit_s) as pool:
        late = asyncio.create_task(pool.run(b""))
        waiting = asyncio.create_task(pool.run(b""))
        await ticks()
        queued_at = time.monotonic()
        with pytest.raises(InvalidImage):
            await late
        await until(lambda: time.monotonic() > queued_at + 1.5 * limit_s)
        assert not waiting.done()
        decoder.gate.set()
        assert await waiting is PIXELS


async def test_close_rejects_the_images_that_wait_for_a_thread(until: Until) -> None:
    decoder = Decoder(held=True)
    with pool_of(decoder, threads=1) as pool:
        running = asyncio.create_task(pool.run(b""))
        await until(lambda: decoder.running == 1)
        waiting = [asyncio.create_task(pool.run(b"")) for _ in range(20)]
        await ticks()
        pool.close()
        decoder.gate.set()
        assert await running is PIXELS
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(result) for result in results] == [Unavailable] * 20


async def test_the_upload_of_a_cancelled_request_is_freed(until: Until) -> None:
    decoder = Decoder(held=True)
    with pool_of(decoder, threads=1) as pool:
        running = asyncio.create_task(pool.run(b""))
        await until(lambda: decoder.running == 1)
        uploads = [Upload(b"1234") for _ in range(4)]
        references = [weakref.ref(upload) for upload in uploads]
        tasks = [asyncio.create_task(pool.run(upload)) for upload in uploads]  # type: ignore[arg-type]  # like bytes
        await ticks()
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        uploads.clear()
        tasks.clear()
        del task
        gc.collect()
        assert [reference() for reference in references] == [None] * 4
        decoder.gate.set()
        await running
