"""Entries that leave the queue early: expired, abandoned, lingering; and everybody's own answer in the midst of it."""

import asyncio
import random
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.serving.errors import DeadlineExceeded, Overloaded, Unavailable
from tests.app.squares import WAIT_S, Squares, ask, ask_soon, started, ticks

pytestmark = pytest.mark.anyio


async def test_an_expired_item_frees_its_place_and_never_runs(squares):
    squares.gate.clear()
    async with started(squares, max_queue_size=2) as batcher:
        running = ask_soon(batcher, 0)
        await squares.entered()
        [expiring] = ask_soon(batcher, 1, deadline_s=0.01)
        [patient] = ask_soon(batcher, 2)
        with pytest.raises(DeadlineExceeded):
            await expiring
        assert batcher.queue_length == 1
        running += ask_soon(batcher, 3)
        await ticks()
        squares.gate.set()
        await asyncio.gather(*running, patient)
    assert squares.batches == [[0], [2, 3]]


async def test_a_deadline_that_has_passed_is_no_reason_to_run(squares):
    async with started(squares) as batcher:
        with pytest.raises(DeadlineExceeded):
            await ask(batcher, 1, deadline_s=-1)
        assert (await ask(batcher, 2)).result == 4
    assert squares.batches == [[2]]


async def test_a_deadline_holds_during_the_run_too(squares):
    squares.gate.clear()
    async with started(squares) as batcher:
        with pytest.raises(DeadlineExceeded):
            await ask(batcher, 1, deadline_s=0.01)
        squares.gate.set()
        assert (await ask(batcher, 2)).result == 4


async def test_an_abandoned_item_frees_its_place_and_never_runs(squares):
    squares.gate.clear()
    async with started(squares, max_queue_size=2) as batcher:
        running = ask_soon(batcher, 0)
        await squares.entered()
        abandoned, waiting = ask_soon(batcher, 1, 2)
        await ticks()
        with pytest.raises(Overloaded):
            await ask(batcher, 3)
        abandoned.cancel()
        await asyncio.wait([abandoned])
        running += ask_soon(batcher, 3)
        await ticks()
        squares.gate.set()
        await asyncio.gather(*running, waiting)
    assert squares.batches == [[0], [2, 3]]


async def test_an_item_abandoned_this_very_moment_is_not_taken(squares):
    squares.gate.clear()
    async with started(squares) as batcher:
        tasks = ask_soon(batcher, 0)
        await squares.entered()
        tasks += ask_soon(batcher, 1)
        await ticks()
        tasks[1].cancel()  # its waiter has had no turn yet to leave the queue
        assert batcher._take() == []
        squares.gate.set()
        await tasks[0]


async def test_an_item_abandoned_while_it_runs_leaves_its_neighbours_alone(squares):
    squares.gate.clear()
    async with started(squares) as batcher:
        first = ask_soon(batcher, 0)
        await squares.entered()
        tasks = ask_soon(batcher, 1, 2, 3)
        await ticks()
        squares.gate.set()
        squares.gate = threading.Event()
        await squares.entered()
        tasks[1].cancel()
        await asyncio.wait([tasks[1]])
        squares.gate.set()
        assert [(await task).result for task in (*first, tasks[0], tasks[2])] == [0, 1, 9]
    assert squares.batches == [[0], [1, 2, 3]]


async def test_a_batch_of_nothing_but_abandoned_items_does_not_run(squares):
    squares.gate.clear()
    async with started(squares) as batcher:
        first = ask_soon(batcher, 0)
        await squares.entered()
        tasks = ask_soon(batcher, 1, 2)
        await ticks()
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        squares.gate.set()
        await asyncio.gather(*first)
        assert (await ask(batcher, 3)).result == 9
    assert squares.batches == [[0], [3]]


async def test_a_delay_gathers_what_comes_within_it(squares):
    async with started(squares, max_queue_delay_s=0.1) as batcher:
        [first] = ask_soon(batcher, 1)
        await ticks()
        assert batcher.queue_length == 1  # waits for company
        [second] = ask_soon(batcher, 2)
        assert (await first).batch_size == (await second).batch_size == 2
        assert (await first).queue_s >= 0.1
        assert (await second).queue_s < (await first).queue_s


async def test_a_full_batch_does_not_wait_for_its_delay(squares):
    async with started(squares, max_queue_delay_s=WAIT_S, max_batch_size=2) as batcher:
        async with asyncio.timeout(WAIT_S / 2):
            answers = await asyncio.gather(*ask_soon(batcher, 1, 2))
    assert [answer.result for answer in answers] == [1, 4]


async def test_a_delay_counts_from_the_oldest_item(squares):
    squares.gate.clear()
    async with started(squares, max_queue_delay_s=0.02, max_batch_size=2) as batcher:
        first = ask_soon(batcher, 0, 1)
        await squares.entered()
        [late] = ask_soon(batcher, 2)
        await asyncio.to_thread(threading.Event().wait, 0.04)  # the run takes longer than the delay
        squares.gate.set()
        await asyncio.gather(*first)
        await ticks()
        assert batcher.queue_length == 0
        assert (await late).result == 4


async def test_sixty_four_concurrent_items_take_few_runs():
    squares = Squares()
    async with started(squares, max_batch_size=16) as batcher:
        answers = await asyncio.gather(*ask_soon(batcher, *range(64)))
    assert [answer.result for answer in answers] == [item * item for item in range(64)]
    assert len(squares.batches) <= 8


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), max_batch_size=st.integers(1, 9), delay_s=st.sampled_from([0, 0.001]))
def test_everyone_gets_his_own_answer_or_a_reason(seed, max_batch_size, delay_s):
    asyncio.run(_storm(random.Random(seed), max_batch_size, delay_s))  # noqa: S311 - no secret hangs on it


async def _storm(dice: random.Random, max_batch_size: int, delay_s: float) -> None:
    squares = Squares()
    squares.fails = {item: ArithmeticError(str(item)) for item in dice.sample(range(60), 3)}
    hurried = set(dice.sample(range(60), 10))
    async with started(squares, max_batch_size=max_batch_size, max_queue_delay_s=delay_s) as batcher:
        tasks = []
        for item in range(60):
            tasks += ask_soon(batcher, item, deadline_s=dice.choice([-1, 0, 0.001]) if item in hurried else WAIT_S)
            if dice.random() < 0.2:
                dice.choice(tasks).cancel()
            for _ in range(dice.randrange(4)):
                await asyncio.sleep(0)
        async with asyncio.timeout(WAIT_S):
            results = await asyncio.gather(*tasks, return_exceptions=True)
        assert batcher.queue_length == 0
        squares.fails = {}
        assert (await ask(batcher, 100)).result == 10_000
    for item, result in enumerate(results):
        if isinstance(result, asyncio.CancelledError):
            assert tasks[item].cancelled()
        elif isinstance(result, DeadlineExceeded):
            assert item in hurried
        elif not isinstance(result, Unavailable):
            assert result.result == item * item
    assert all(len(batch) <= max_batch_size for batch in squares.batches)
    ran = [item for batch in squares.batches for item in batch]
    assert len(ran) == len(set(ran))
    assert ran == sorted(ran)


async def test_a_deadline_that_the_queue_cannot_meet_is_refused_at_once(squares):
    squares.gate.clear()
    async with started(squares, expected_rate=10.0) as batcher:
        tasks = ask_soon(batcher, 0)
        await squares.entered()
        tasks += ask_soon(batcher, 1, 2, 3)
        await ticks()
        with pytest.raises(Overloaded) as caught, batcher.reserve(time.monotonic() + 0.2):
            pass
        assert caught.value.retry_after_s == pytest.approx(0.3)
        with batcher.reserve(time.monotonic() + 5) as slot:
            assert not slot.filled
        squares.gate.set()
        assert [(await task).result for task in tasks] == [0, 1, 4, 9]


async def test_lone_items_say_nothing_of_how_fast_a_queue_drains(squares):
    async with started(squares, max_batch_size=4, expected_rate=1000.0) as batcher:
        for number in range(20):  # each a batch of one: a fraction of what a full one gets done
            await asyncio.gather(*ask_soon(batcher, number))
        squares.gate.clear()
        tasks = ask_soon(batcher, 0)
        await squares.entered()
        tasks += ask_soon(batcher, *range(1, 11))
        await ticks()
        with pytest.raises(Overloaded) as caught, batcher.reserve(time.monotonic() + 0.005):
            pass
        assert caught.value.retry_after_s == pytest.approx(0.01)
        squares.gate.set()
        await asyncio.gather(*tasks)
