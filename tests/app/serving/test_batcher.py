"""DynamicBatcher: which items form a batch, and the result of each item."""

import asyncio
import random
import threading
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.serving.errors import Unavailable
from tests.app.serving.squares import Batcher, Squares, running, submit, ticks
from tests.app.types import Until
from tests.constants import WAIT_S

pytestmark = pytest.mark.anyio


async def test_a_single_item_runs_at_once(squares: Squares) -> None:
    squares.gate.clear()
    with running(squares, max_batch_size=64) as batcher:
        [task] = submit(batcher, 3)
        await squares.batch_started()
        assert batcher.queue_length == 0
        squares.gate.set()
        result = await task
        assert result.value == 9


async def test_items_that_arrive_during_a_batch_form_the_next_ones_in_order(squares: Squares) -> None:
    squares.gate.clear()
    with running(squares) as batcher:
        first = submit(batcher, 0)
        await squares.batch_started()
        others = submit(batcher, *range(1, 11))
        await ticks()
        assert batcher.queue_length == 10
        squares.gate.set()
        results = await asyncio.gather(*first, *others)
    assert squares.batches == [[0], [1, 2, 3, 4], [5, 6, 7, 8], [9, 10]]
    assert [result.value for result in results] == [item * item for item in range(11)]


async def test_two_workers_run_two_batches_at_the_same_time(squares: Squares) -> None:
    squares.gate.clear()
    with running(squares, workers=2) as batcher:
        tasks = submit(batcher, 1)
        await squares.batch_started()
        tasks += submit(batcher, 2)
        await squares.batch_started()
        tasks += submit(batcher, 3, 4)
        await ticks()
        assert (batcher.queue_length, squares.batches) == (2, [[1], [2]])
        squares.gate.set()
        assert [(await task).value for task in tasks] == [1, 4, 9, 16]


async def test_results_contain_the_time_in_the_queue_and_in_the_batch(squares: Squares) -> None:
    squares.gate.clear()
    with running(squares) as batcher:
        [first] = submit(batcher, 1)
        await squares.batch_started()
        [second] = submit(batcher, 2)
        await ticks()
        opened_at = time.monotonic()
        squares.gate.set()
        first_result, second_result = await first, await second
        elapsed_s = time.monotonic() - opened_at
    assert first_result.queue_s >= 0
    assert 0 < second_result.queue_s <= first_result.run_s + elapsed_s
    assert 0 < second_result.run_s <= elapsed_s


async def test_an_exception_reaches_every_item_of_its_batch_and_no_other(squares: Squares) -> None:
    squares.failures = {2: ArithmeticError("no square of 2")}
    squares.gate.clear()
    with running(squares) as batcher:
        first = submit(batcher, 0)
        await squares.batch_started()
        batch, following = submit(batcher, 1, 2, 3, 4), submit(batcher, 5)
        await ticks()
        squares.gate.set()
        errors = await asyncio.gather(*batch, return_exceptions=True)
        assert all(isinstance(error, Unavailable) for error in errors)
        assert len(set(map(id, errors))) == 4  # one per item, as each collects a traceback
        assert all(isinstance(error, Unavailable) and error.__cause__ is squares.failures[2] for error in errors)
        assert [(await task).value for task in (*first, *following)] == [0, 25]
        assert batcher.failure is None


async def test_consecutive_failures_are_counted_until_a_batch_succeeds(squares: Squares) -> None:
    squares.failures = {2: ArithmeticError()}
    with running(squares) as batcher:
        for expected in (1, 2):
            [task] = submit(batcher, 2)
            with pytest.raises(Unavailable):
                await task
            assert batcher.consecutive_failures == expected
        [task] = submit(batcher, 1)
        await task
        assert batcher.consecutive_failures == 0


async def test_a_wrong_number_of_results_fails_the_batch() -> None:
    results = [[1, 2], [5]]
    batcher = Batcher(lambda items: results.pop(0), max_batch_size=4)
    try:
        with pytest.raises(Unavailable) as caught:
            await batcher.submit(1)
        assert isinstance(caught.value.__cause__, ValueError)
        assert (await batcher.submit(1)).value == 5
    finally:
        batcher.close()


async def test_a_fatal_exception_closes_the_batcher(squares: Squares) -> None:
    squares.failures = {0: ConnectionError("device 7")}
    squares.gate.clear()
    with running(squares, fatal=(ConnectionError,)) as batcher:
        tasks = submit(batcher, 0)
        await squares.batch_started()
        tasks += submit(batcher, 1, 2)
        await ticks()
        squares.gate.set()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            assert isinstance(result, Unavailable)
        assert "device 7" in (batcher.failure or "")
        with pytest.raises(Unavailable):
            await batcher.submit(3)
    assert squares.batches == [[0]]


async def test_an_observer_that_fails_does_not_stop_the_batcher(squares: Squares) -> None:
    def broken(_size: int, _run_s: float) -> None:
        raise ZeroDivisionError

    with running(squares, on_batch=broken) as batcher:
        assert [(await task).value for task in submit(batcher, 2, 3)] == [4, 9]
        [task] = submit(batcher, 4)
        assert (await task).value == 16


async def test_close_fails_all_items_although_a_batch_does_not_end(squares: Squares) -> None:
    squares.gate.clear()
    with running(squares) as batcher:
        tasks = submit(batcher, 0)
        await squares.batch_started()
        tasks += submit(batcher, 1, 2)
        await ticks()
        batcher.close()
        async with asyncio.timeout(WAIT_S / 2):
            results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(result) for result in results] == [Unavailable] * 3
        with pytest.raises(Unavailable):
            await batcher.submit(3)
        squares.gate.set()


async def test_close_stops_the_threads(squares: Squares) -> None:
    before = set(threading.enumerate())
    with running(squares) as batcher:
        await batcher.submit(1)
        [thread] = [thread for thread in set(threading.enumerate()) - before if thread.name.startswith("engine")]
    await asyncio.to_thread(thread.join, WAIT_S)
    assert not thread.is_alive()


async def test_a_batch_that_takes_too_long_is_a_failure_until_it_completes(squares: Squares, until: Until) -> None:
    squares.gate.clear()
    with running(squares, stall_after_s=0.02) as batcher:
        [task] = submit(batcher, 3)
        await squares.batch_started()
        await until(lambda: batcher.failure)
        squares.gate.set()
        assert (await task).value == 9
        assert batcher.failure is None


@pytest.mark.parametrize("cancelled", [False, True])
async def test_an_expired_or_cancelled_item_leaves_the_queue_and_never_runs(squares: Squares, cancelled: bool) -> None:
    squares.gate.clear()
    with running(squares) as batcher:
        tasks = submit(batcher, 0)
        await squares.batch_started()
        [leaving] = submit(batcher, 1, timeout_s=WAIT_S if cancelled else 0.01)
        tasks += submit(batcher, 2)
        await ticks()
        if cancelled:
            leaving.cancel()
        with pytest.raises(asyncio.CancelledError if cancelled else TimeoutError):
            await leaving
        assert batcher.queue_length == 1
        squares.gate.set()
        await asyncio.gather(*tasks)
    assert squares.batches == [[0], [2]]


async def test_an_item_cancelled_while_it_runs_does_not_affect_its_batch(squares: Squares) -> None:
    squares.gate.clear()
    with running(squares) as batcher:
        first = submit(batcher, 0)
        await squares.batch_started()
        tasks = submit(batcher, 1, 2, 3)
        await ticks()
        squares.gate.set()
        squares.gate = threading.Event()
        await squares.batch_started()
        tasks[1].cancel()
        await asyncio.wait([tasks[1]])
        squares.gate.set()
        assert [(await task).value for task in (*first, tasks[0], tasks[2])] == [0, 1, 9]
    assert squares.batches == [[0], [1, 2, 3]]


async def test_a_delay_collects_the_items_that_arrive_within_it(squares: Squares) -> None:
    with running(squares, max_queue_delay_s=0.1) as batcher:
        [first] = submit(batcher, 1)
        await ticks()
        assert batcher.queue_length == 1
        [second] = submit(batcher, 2)
        await asyncio.wait([first, second])
        assert squares.batches == [[1, 2]]
        assert (await first).queue_s >= 0.09
        assert (await second).queue_s < (await first).queue_s


async def test_a_full_batch_does_not_wait_for_the_delay(squares: Squares) -> None:
    with running(squares, max_queue_delay_s=WAIT_S, max_batch_size=2) as batcher:
        async with asyncio.timeout(WAIT_S / 2):
            results = await asyncio.gather(*submit(batcher, 1, 2))
    assert [result.value for result in results] == [1, 4]


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    max_batch_size=st.integers(1, 9),
    workers=st.integers(1, 3),
    delay_s=st.sampled_from([0, 0.001]),
)
def test_every_item_gets_its_own_result_or_an_error(
    seed: int, max_batch_size: int, workers: int, delay_s: float
) -> None:
    generator = random.Random(seed)  # noqa: S311 - no secret depends on it
    asyncio.run(_storm(generator, max_batch_size=max_batch_size, workers=workers, max_queue_delay_s=delay_s))


async def _storm(generator: random.Random, **options: Any) -> None:  # Any: the batcher's keyword arguments
    squares = Squares()
    squares.failures = {item: ArithmeticError(str(item)) for item in generator.sample(range(60), 3)}
    hurried = set(generator.sample(range(60), 10))
    with running(squares, **options) as batcher:
        tasks = []
        for item in range(60):
            timeout_s = generator.choice([-1, 0, 0.001]) if item in hurried else WAIT_S
            tasks += submit(batcher, item, timeout_s=timeout_s)
            if generator.random() < 0.2:
                generator.choice(tasks).cancel()
            for _ in range(generator.randrange(4)):
                await asyncio.sleep(0)
        async with asyncio.timeout(WAIT_S):
            results = await asyncio.gather(*tasks, return_exceptions=True)
        assert batcher.queue_length == 0
        squares.failures = {}
        assert (await batcher.submit(100)).value == 10_000
    for item, result in enumerate(results):
        if isinstance(result, asyncio.CancelledError):
            assert tasks[item].cancelled()
        elif isinstance(result, TimeoutError):
            assert item in hurried
        elif not isinstance(result, Unavailable):
            assert not isinstance(result, BaseException)
            assert result.value == item * item
    processed = [item for batch in squares.batches for item in batch]
    assert len(processed) == len(set(processed))
    assert all(len(batch) <= options["max_batch_size"] for batch in squares.batches)
