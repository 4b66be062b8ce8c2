"""Admission: how many images may be in the service at a time, so that no request waits too long."""

import asyncio
import math
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from app.serving.errors import Overloaded, Unavailable

_WINDOW_S = 0.25  # of busy time over which one sample of the rate is taken
_SAMPLE_WEIGHT = 0.3  # of the newest sample in the moving average
_MAX_RETRY_AFTER_S = 60.0


class CompletionRate:
    """Images per second that the service completes while it is busy; ``expected`` until that is measured."""

    def __init__(self, expected: float) -> None:
        self.value = expected
        self._window_started_at: float | None = None
        self._completed = 0

    def note(self, count: int, now: float, *, busy: bool) -> None:
        """Counts ``count`` images completed at ``now`` (s); time in which the service was not busy does not count."""
        if not busy:
            self._window_started_at = None
            return
        if self._window_started_at is None:
            self._window_started_at, self._completed = now, 0
            return
        self._completed += count
        elapsed_s = now - self._window_started_at
        if elapsed_s >= _WINDOW_S:
            self.value += (self._completed / elapsed_s - self.value) * (_SAMPLE_WEIGHT if self.value else 1)
            self._window_started_at, self._completed = now, 0


class Slots:
    """The slots that one admitted request holds. A request that is still uploading may hold none."""

    def __init__(self, admission: "Admission") -> None:
        self._admission = admission
        self.count = 0

    def resize(self, count: int) -> None:
        """Holds ``count`` slots from now on, or raises ``Overloaded`` and leaves everything as it was."""
        if count > self.count:
            self._admission.check(count - self.count, self.count)
        self._admission.in_service += count - self.count
        self.count = count


class Admission:
    """Admits a request if its images would be completed within ``max_wait_s`` at the measured rate.

    ``min_slots`` images are always admitted, so that a slow phase cannot lower the limit so far that the rate can no
    longer be measured. So are as many of ``batched_slots`` as are completed within ``max_batched_wait_s``: with fewer,
    batches of a slow network would not be full. ``max_slots`` are never exceeded. ``expected_rate`` is in images per
    second, 0 if unknown.
    """

    def __init__(
        self,
        *,
        max_slots: int,
        max_wait_s: float,
        min_slots: int = 1,
        batched_slots: int = 0,
        max_batched_wait_s: float = math.inf,
        expected_rate: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.in_service = 0  # images admitted and not yet completed
        self.requests = 0  # admitted and not yet answered
        self.closed_reason: str | None = None  # why nothing is admitted any more
        self._max_slots = max_slots
        self._max_wait_s = max_wait_s
        self._min_slots = min(min_slots, max_slots)
        self._batched_slots = batched_slots
        self._max_batched_wait_s = max_batched_wait_s
        self._rate = CompletionRate(expected_rate)
        self._clock = clock
        self._idle = asyncio.Event()
        self._idle.set()
        self._rejected = 0.0  # in about the last second
        self._rejected_at = 0.0

    @property
    def limit(self) -> int:
        """How many images may be in the service now."""
        rate = self._rate.value
        if not rate:
            return self._max_slots
        batched = min(self._batched_slots, rate * self._max_batched_wait_s)
        return math.floor(min(self._max_slots, max(self._min_slots, batched, rate * self._max_wait_s)))

    def check(self, slots: int = 1, held: int = 0) -> None:
        """Raises ``Unavailable`` or ``Overloaded`` if ``slots`` more images would not be admitted.

        A request that holds all the slots that are taken, ``held``, may have up to ``max_slots``: one with more
        images than can be completed within ``max_wait_s`` would otherwise never be admitted.
        """
        if self.closed_reason is not None:
            raise Unavailable(self.closed_reason)
        limit = self._max_slots if self.in_service == held else self.limit
        if self.in_service + slots > limit:
            raise Overloaded(
                f"{self.in_service} images are waiting, and {slots} more would take longer than the limit of"
                f" {self._max_wait_s:g} s.",
                self._retry_after_s(),
            )

    @contextmanager
    def admit(self, slots: int = 1) -> Iterator[Slots]:
        """Holds ``slots`` slots for the time of one request. Raises ``Unavailable`` or ``Overloaded``."""
        held_slots = Slots(self)
        held_slots.resize(slots)
        self.requests += 1
        self._idle.clear()
        try:
            yield held_slots
        finally:
            held_slots.resize(0)
            self.requests -= 1
            if not self.requests:
                self._idle.set()

    def note_completed(self, count: int = 1) -> None:
        """Adds ``count`` completed images to the measured rate."""
        self._rate.note(count, self._clock(), busy=self.in_service >= self._min_slots)

    async def wait_until_idle(self) -> None:
        """Waits until every admitted request has ended."""
        await self._idle.wait()

    def _retry_after_s(self) -> float:
        """The time that the images waiting take, plus a random share of what the rejected requests would take.

        The random share spreads the retries over the time in which they can be served.
        """
        now = self._clock()
        self._rejected = self._rejected * math.exp(self._rejected_at - now) + 1
        self._rejected_at = now
        rate = self._rate.value or self._max_slots
        spread_s = max(1.0, self._rejected / rate)
        return min(_MAX_RETRY_AFTER_S, self.in_service / rate + random.uniform(0, spread_s))  # noqa: S311 - jitter
