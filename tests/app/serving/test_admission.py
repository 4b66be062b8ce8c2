"""Admission: the limit, how it follows the measured rate, Retry-After, and waiting until idle."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.serving.admission import Admission
from app.serving.errors import Overloaded, Unavailable
from tests.app.serving.squares import ticks
from tests.constants import WAIT_S

pytestmark = pytest.mark.anyio


class Clock:
    """A clock that tests set."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def build(clock: Clock | None = None, **options: float) -> Admission:
    defaults = {"max_slots": 100, "max_wait_s": 1.0, "min_slots": 2, "expected_rate": 0.0}
    return Admission(**(defaults | options), clock=clock or Clock())  # type: ignore[arg-type]  # ints among floats


def complete(admission: Admission, clock: Clock, rate: float, duration_s: float) -> None:
    """Completes ``rate`` images per second for some time."""
    for _ in range(round(rate * duration_s)):
        clock.now += 1 / rate
        admission.note_completed()


async def test_without_a_rate_only_the_number_of_places_limits() -> None:
    admission = build(max_slots=3)
    with admission.admit(), admission.admit(), admission.admit():
        with pytest.raises(Overloaded), admission.admit():
            pass
        assert admission.in_service == 3
    assert admission.in_service == 0


@pytest.mark.parametrize(
    ("rate", "max_wait_s", "limit"), [(20.0, 1.0, 20), (20.0, 0.5, 10), (20.0, 60.0, 100), (0.5, 1.0, 2)]
)
async def test_the_limit_is_the_rate_times_the_longest_wait(rate: float, max_wait_s: float, limit: int) -> None:
    assert build(expected_rate=rate, max_wait_s=max_wait_s).limit == limit


async def test_the_limit_follows_the_measured_rate_down_and_up() -> None:
    clock = Clock()
    admission = build(clock, expected_rate=50.0)
    with admission.admit(slots=10):
        complete(admission, clock, 10.0, 10)
        assert admission.limit == pytest.approx(10, abs=1)
        complete(admission, clock, 80.0, 10)
        assert admission.limit == pytest.approx(80, abs=4)


async def test_the_limit_recovers_from_a_slow_phase_with_the_fewest_requests_that_are_always_admitted() -> None:
    clock = Clock()
    admission = build(clock, expected_rate=50.0, min_slots=3)
    with admission.admit(slots=3):
        complete(admission, clock, 0.1, 200)
        assert admission.limit == 3
        complete(admission, clock, 50.0, 10)
        assert admission.limit == pytest.approx(50, abs=3)


async def test_time_in_which_the_service_is_not_busy_does_not_lower_the_rate() -> None:
    clock = Clock()
    admission = build(clock, expected_rate=50.0)
    for _ in range(20):
        with admission.admit():
            clock.now += 1.0
            admission.note_completed()
    assert admission.limit == 50


async def test_a_permit_is_resized_completely_or_not_at_all() -> None:
    admission = build(max_slots=5)
    with admission.admit() as held_slots, admission.admit():
        with pytest.raises(Overloaded):
            held_slots.resize(5)
        assert (held_slots.count, admission.in_service) == (1, 2)
        held_slots.resize(4)
        assert admission.in_service == 5
        held_slots.resize(0)
        assert admission.in_service == 1
    assert admission.in_service == 0


@given(waiting=st.integers(1, 90), rejections=st.integers(1, 300))
def test_retry_after_covers_the_queue_and_is_bounded(waiting: int, rejections: int) -> None:
    async def reject() -> float:
        admission = build(expected_rate=10.0, max_wait_s=waiting / 10)
        with admission.admit(slots=max(waiting, 2)):
            for _ in range(rejections):
                with pytest.raises(Overloaded) as caught:
                    admission.check()
        return caught.value.retry_after_s

    retry_after_s = asyncio.run(reject())
    assert waiting / 10 <= retry_after_s <= max(waiting, 2) / 10 + max(1.0, rejections / 10)
    assert retry_after_s <= 60


async def test_retries_are_spread() -> None:
    admission = build(expected_rate=10.0)
    with admission.admit(slots=10):
        times = set()
        for _ in range(20):
            with pytest.raises(Overloaded) as caught:
                admission.check()
            times.add(caught.value.retry_after_s)
    assert len(times) == 20


async def test_a_closed_service_admits_nothing() -> None:
    admission = build()
    admission.closed_reason = "shutdown 7"
    with pytest.raises(Unavailable, match="shutdown 7"), admission.admit():
        pass
    assert admission.requests == 0


async def test_waiting_until_idle_covers_requests_that_hold_no_place() -> None:
    admission = build()
    with admission.admit() as held_slots:
        held_slots.resize(0)
        idle = asyncio.create_task(admission.wait_until_idle())
        await ticks()
        assert not idle.done()
    async with asyncio.timeout(WAIT_S):
        await idle
