"""Batches on the threads that decode images."""

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from app.serving.errors import Unavailable
from tests.app.fake_engine import FakeEngine
from tests.app.serving.services import classify, started
from tests.app.serving.squares import Squares, running, submit, ticks
from tests.app.types import Grey, Until
from tests.constants import WAIT_S

pytestmark = pytest.mark.anyio


async def test_runs_on_the_threads_it_is_given_and_does_not_stop_them(squares: Squares) -> None:
    with ThreadPoolExecutor(1, thread_name_prefix="shared") as executor:
        before = set(threading.enumerate())
        with running(squares, executor=executor) as batcher:
            assert (await batcher.submit(3)).value == 9
            assert {thread.name for thread in set(threading.enumerate()) - before} == {"shared_0"}
        assert executor.submit(int).result(WAIT_S) == 0


async def test_a_batch_that_waits_for_a_thread_is_not_stalled(squares: Squares, until: Until) -> None:
    stall_s = 0.02
    gate = threading.Event()
    with ThreadPoolExecutor(1) as executor, running(squares, executor=executor, stall_after_s=stall_s) as batcher:
        executor.submit(gate.wait, WAIT_S)
        [task] = submit(batcher, 3)
        await ticks()
        queued_at = time.monotonic()
        await until(lambda: time.monotonic() > queued_at + 2 * stall_s)
        assert batcher.failure is None
        gate.set()
        assert (await task).value == 9


@pytest.mark.parametrize(
    ("mode", "concurrency", "names"),
    [("openvino", 1, {"decode"}), ("openvino", 2, {"decode", "engine"}), ("eager", 1, {"decode", "engine"})],
)
async def test_batches_of_openvino_run_on_the_decode_threads_if_there_are_enough(
    engine: FakeEngine, grey: Grey, mode: str, concurrency: int, names: set[str]
) -> None:
    before = set(threading.enumerate())
    engine.mode, engine.concurrency = mode, concurrency
    async with started(engine) as service:
        await classify(service, grey(7))
        threads = [thread for thread in set(threading.enumerate()) - before if "_" in thread.name]
    assert {thread.name.partition("_")[0] for thread in threads} == names


async def test_a_batch_that_holds_the_only_thread_delays_other_images_and_close_rejects_them(
    engine: FakeEngine, grey: Grey
) -> None:
    engine.mode = "openvino"
    engine.gate.clear()
    async with started(engine) as service:
        tasks = [asyncio.create_task(classify(service, grey(level))) for level in range(4)]
        await engine.entered()
        await ticks()
        assert not any(task.done() for task in tasks)
        service.close()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    assert {type(result) for result in results} == {Unavailable}
