"""What a batch is made of, who gets which answer, and what happens when a run fails."""

import asyncio
import threading
import time

import pytest

from app.serving.batcher import DynamicBatcher
from app.serving.errors import Overloaded, Unavailable
from tests.app.squares import WAIT_S, ask, ask_soon, started, ticks

pytestmark = pytest.mark.anyio


async def test_a_lone_item_runs_at_once(squares):
    squares.gate.clear()
    async with started(squares, max_batch_size=64) as batcher:
        [task] = ask_soon(batcher, 3)
        await ticks()
        assert batcher.queue_length == 0  # no longer waits: it runs
        await squares.entered()
        squares.gate.set()
        answer = await task
        assert (answer.result, answer.batch_size) == (9, 1)


async def test_what_arrives_during_a_run_is_the_next_batch_oldest_first(squares):
    squares.gate.clear()
    async with started(squares) as batcher:
        first = ask_soon(batcher, 0)
        await squares.entered()
        others = ask_soon(batcher, *range(1, 11))
        await ticks()
        assert batcher.queue_length == 10
        squares.gate.set()
        answers = await asyncio.gather(*first, *others)
    assert squares.batches == [[0], [1, 2, 3, 4], [5, 6, 7, 8], [9, 10]]
    assert [answer.result for answer in answers] == [item * item for item in range(11)]
    assert [answer.batch_size for answer in answers] == [1, *[4] * 8, 2, 2]


async def test_answers_say_where_the_time_went(squares):
    squares.gate.clear()
    async with started(squares) as batcher:
        [first] = ask_soon(batcher, 1)
        await squares.entered()
        [second] = ask_soon(batcher, 2)
        await ticks()
        asked_at = time.monotonic()
        squares.gate.set()
        first_answer, second_answer = await first, await second
        lasted_s = time.monotonic() - asked_at
    assert first_answer.queue_s >= 0
    assert second_answer.queue_s > 0
    assert second_answer.queue_s <= first_answer.run_s + lasted_s
    assert 0 < second_answer.run_s <= lasted_s


async def test_an_exception_reaches_every_waiter_of_its_batch_and_no_other(squares):
    squares.fails = {2: ArithmeticError("no square of 2")}
    squares.gate.clear()
    async with started(squares) as batcher:
        first = ask_soon(batcher, 0)
        await squares.entered()
        batch, following = ask_soon(batcher, 1, 2, 3, 4), ask_soon(batcher, 5)
        await ticks()
        squares.gate.set()
        errors = await asyncio.gather(*batch, return_exceptions=True)
        assert [type(error) for error in errors] == [Unavailable] * 4
        assert len(set(map(id, errors))) == 4  # one each, as each collects a traceback
        assert all(error.__cause__ is squares.fails[2] for error in errors)
        assert [(await task).result for task in (*first, *following)] == [0, 25]
        assert batcher.failure is None
        assert (await ask(batcher, 6)).result == 36


async def test_a_wrong_number_of_results_is_a_failed_batch():
    results: list[list[int]] = [[1, 2], [5]]
    async with started(lambda items: results.pop(0)) as batcher:
        with pytest.raises(Unavailable) as caught:
            await ask(batcher, 1)
        assert "2 results for 1" in str(caught.value.__cause__)
        assert (await ask(batcher, 1)).result == 5


async def test_after_a_fatal_exception_nothing_is_admitted_and_nobody_waits(squares):
    squares.fails = {0: ConnectionError("the device has gone")}
    squares.gate.clear()
    async with started(squares, fatal=(ConnectionError,)) as batcher:
        running = ask_soon(batcher, 0)
        await squares.entered()
        waiting = ask_soon(batcher, 1, 2)
        await ticks()
        squares.gate.set()
        for task in (*running, *waiting):
            with pytest.raises(Unavailable, match="the device has gone"):
                await task
        assert "the device has gone" in batcher.failure
        with pytest.raises(Unavailable), batcher.reserve():
            pass
    assert squares.batches == [[0]]


async def test_a_loop_that_ends_answers_everyone_it_owes(squares, caplog):
    def broken(size, run_s):
        raise ZeroDivisionError("a broken observer")

    squares.gate.clear()
    async with started(squares, on_batch=broken) as batcher:
        running = ask_soon(batcher, 0)
        await squares.entered()
        waiting = ask_soon(batcher, 1, 2)
        await ticks()
        squares.gate.set()
        async with asyncio.timeout(WAIT_S / 2):
            results = await asyncio.gather(*running, *waiting, return_exceptions=True)
        assert [type(result) for result in results] == [Unavailable] * 3
        assert batcher.failure is not None
    assert "a broken observer" in caplog.text


async def test_close_answers_all_though_a_run_does_not_end(squares):
    squares.gate.clear()
    async with started(squares) as batcher:
        tasks = ask_soon(batcher, 0)
        await squares.entered()
        tasks += ask_soon(batcher, 1, 2)
        await ticks()
        async with asyncio.timeout(WAIT_S / 2):
            await batcher.close()
            results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(result) for result in results] == [Unavailable] * 3
        with pytest.raises(Unavailable, match="shutting down"), batcher.reserve():
            pass
        with pytest.raises(Unavailable):
            await ask(batcher, 3)


async def test_an_item_made_while_the_batcher_closed_is_refused(squares):
    async with started(squares) as batcher:
        with batcher.reserve() as slot:
            await batcher.close()
            with pytest.raises(Unavailable):
                await slot.fill(1, time.monotonic() + WAIT_S)


async def test_close_ends_the_threads(squares):
    before = set(threading.enumerate())
    async with started(squares) as batcher:
        await ask(batcher, 1)
        [thread] = set(threading.enumerate()) - before
    await asyncio.to_thread(thread.join, WAIT_S)
    assert not thread.is_alive()


async def test_nothing_is_admitted_before_the_start(squares):
    batcher = DynamicBatcher(squares, max_batch_size=1, max_queue_size=1)
    with pytest.raises(Unavailable, match="not started"), batcher.reserve():
        pass
    await batcher.close()


async def test_a_run_that_does_not_end_is_a_failure_for_as_long_as_it_lasts(squares, until):
    squares.gate.clear()
    async with started(squares, stall_after_s=0.02) as batcher:
        [task] = ask_soon(batcher, 3)
        await squares.entered()
        await until(lambda: batcher.failure)
        with pytest.raises(Unavailable, match="has not ended"), batcher.reserve():
            pass
        squares.gate.set()
        assert (await task).result == 9
        assert batcher.failure is None
        assert (await ask(batcher, 4)).result == 16


async def test_a_full_queue_refuses_and_says_how_long_it_takes_to_drain(squares):
    async with started(squares, max_batch_size=2, max_queue_size=3) as batcher:
        measured = await ask(batcher, 0)
        squares.gate.clear()
        tasks = ask_soon(batcher, 1)
        await squares.entered()
        await squares.entered()
        tasks += ask_soon(batcher, 2, 3, 4)
        await ticks()
        with pytest.raises(Overloaded) as caught, batcher.reserve():
            pass
        rate = 1 / measured.run_s  # items a second of the one batch that has ended
        assert caught.value.retry_after_s == pytest.approx(3 / rate, rel=1e-6)
        squares.gate.set()
        assert [(await task).result for task in tasks] == [1, 4, 9, 16]


async def test_before_any_batch_a_full_queue_says_one_second():
    async with started(lambda items: list(items), max_queue_size=1) as batcher:
        with batcher.reserve(), pytest.raises(Overloaded) as caught, batcher.reserve():
            pass
    assert caught.value.headers == {"Retry-After": "1"}


async def test_a_reservation_counts_until_its_work_has_failed(squares):
    async with started(squares, max_queue_size=1) as batcher:
        with pytest.raises(Overloaded), batcher.reserve(), batcher.reserve():
            pass
        assert batcher.queue_length == 0
        assert (await ask(batcher, 2)).result == 4
        assert batcher.queue_length == 0
