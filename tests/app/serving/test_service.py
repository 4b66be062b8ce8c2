"""ClassificationService: predictions, rejected images, health, and shutdown."""

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from app.serving.errors import Unavailable
from app.serving.results import Classification
from app.serving.service import stall_after_s
from model.errors import EngineError, InvalidImage
from model.images.jpeg import Pixels
from tests.app.fake_engine import FakeEngine
from tests.app.serving.services import LIMITS, classify, started
from tests.app.serving.squares import ticks
from tests.app.types import Grey, Until
from tests.constants import WAIT_S

BLANK = np.zeros((8, 8, 3), np.uint8)

pytestmark = pytest.mark.anyio


async def test_the_default_top_k_is_at_most_the_number_of_labels(engine: FakeEngine, grey: Grey) -> None:
    async with started(engine) as service:
        assert len((await classify(service, grey(7))).predictions) == 3
    async with started(engine, replace(LIMITS, default_top_k=1000)) as service:
        assert len((await classify(service, grey(7))).predictions) == 256


async def test_each_image_of_a_batch_has_its_own_top_k(engine: FakeEngine, grey: Grey) -> None:
    engine.gate.clear()
    async with started(engine) as service:
        tasks = [asyncio.create_task(classify(service, grey(0), 1))]
        await engine.entered()
        tasks += [asyncio.create_task(classify(service, grey(k), k)) for k in (1, 5, 3)]
        engine.gate.set()
        assert [len((await task).predictions) for task in tasks] == [1, 1, 5, 3]


async def test_is_unavailable_if_there_is_not_enough_memory_to_decode(engine: FakeEngine, grey: Grey) -> None:
    def exhausted(_data: bytes) -> Pixels:
        raise MemoryError

    async with started(engine, decode=exhausted) as service:
        with pytest.raises(Unavailable):
            await classify(service, grey(0))


async def test_the_engine_is_told_whether_an_image_is_the_only_one_in_service(engine: FakeEngine, grey: Grey) -> None:
    async with started(engine) as service:
        await classify(service, grey(1))
        with service.admit():
            await classify(service, grey(2))
    assert engine.idle == [True, False]


class NotFinite(FakeEngine):
    """Its result for an image of grey level 13 is not a number."""

    def predict(self, images: Sequence[Pixels], *, idle: bool = False) -> npt.NDArray[np.float32]:
        logits = super().predict(images, idle=idle)
        logits[[image[0, 0, 0] == 13 for image in images]] = np.nan
        return logits


async def test_a_result_that_is_not_finite_fails_its_image_alone(grey: Grey) -> None:
    engine = NotFinite()
    engine.gate.clear()
    async with started(engine) as service:
        tasks = [asyncio.create_task(classify(service, grey(level))) for level in (1, 2, 13)]
        await ticks()
        engine.gate.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result) for result in results] == [Classification, Classification, Unavailable]


async def test_one_failed_batch_leaves_the_service_ready(engine: FakeEngine, grey: Grey) -> None:
    engine.failures = [EngineError("failed once")]
    async with started(engine) as service:
        with pytest.raises(Unavailable):
            await classify(service, grey(1))
        assert service.status == "ready"
        assert (await classify(service, grey(2))).predictions[0].class_id == 2


async def test_three_failed_batches_in_a_row_make_it_failing_until_a_probe_succeeds(
    engine: FakeEngine, grey: Grey, until: Until
) -> None:
    engine.failures = [EngineError("failed")] * 5
    async with started(engine) as service:
        for _ in range(3):
            with pytest.raises(Unavailable):
                await classify(service, grey(1))
        assert service.status == "failing"
        with pytest.raises(Unavailable), service.admit():
            pass
        await until(lambda: service.status == "ready")
        assert await classify(service, grey(1))


@pytest.mark.parametrize(("rate", "limit_s"), [(0.0, 60.0), (1000.0, 30.0), (2.0, 80.0)])
async def test_a_batch_may_take_twenty_times_as_long_as_measured(
    engine: FakeEngine, rate: float, limit_s: float
) -> None:
    engine.expected_rate = rate  # images/s, in batches of 8
    assert stall_after_s(engine) == limit_s


async def test_ten_failed_batches_in_a_row_make_it_failed(engine: FakeEngine, grey: Grey, until: Until) -> None:
    engine.failures = [EngineError("failed")] * 1000
    async with started(engine) as service:
        for _ in range(3):
            with pytest.raises(Unavailable):
                await classify(service, grey(1))
        await until(lambda: service.status == "failed")


async def test_stuck_decoders_make_it_failing_and_later_failed(engine: FakeEngine, grey: Grey, until: Until) -> None:
    gate = threading.Event()

    def held(_data: bytes) -> Pixels:
        assert gate.wait(WAIT_S)
        return BLANK

    async with started(engine, replace(LIMITS, decode_timeout_s=0.05), held) as service:
        with pytest.raises(InvalidImage):
            await classify(service, grey(1))
        await until(lambda: service.status == "failing")
        await until(lambda: service.status == "failed")
        gate.set()
        await until(lambda: service.status == "ready")


async def test_a_drain_waits_for_admitted_requests_and_admits_no_more(engine: FakeEngine, grey: Grey) -> None:
    async with started(engine) as service:
        with service.admit():
            draining = asyncio.create_task(service.drain(WAIT_S))
            await ticks()
            assert service.status == "draining"
            assert not draining.done()
            with pytest.raises(Unavailable), service.admit():
                pass
            assert await service.classify(grey(3))
        async with asyncio.timeout(WAIT_S):
            await draining


async def test_a_drain_ends_after_its_grace_period(engine: FakeEngine, grey: Grey) -> None:
    engine.gate.clear()
    async with started(engine) as service:
        task = asyncio.create_task(classify(service, grey(0)))
        await engine.entered()
        async with asyncio.timeout(WAIT_S):
            await service.drain(0.01)
            with pytest.raises(Unavailable):
                await task


async def test_closing_fails_requests_that_wait_for_a_decoder(engine: FakeEngine, grey: Grey) -> None:
    entered, gate = threading.Event(), threading.Event()

    def held(_data: bytes) -> Pixels:
        entered.set()
        assert gate.wait(WAIT_S)
        return BLANK

    async with started(engine, decode=held) as service:
        tasks = [asyncio.create_task(classify(service, grey(0))) for _ in range(3)]
        assert await asyncio.to_thread(entered.wait, WAIT_S)
        async with asyncio.timeout(WAIT_S):
            await service.drain(0.01)
            gate.set()
            for task in tasks:
                with pytest.raises(Unavailable):
                    await task
