"""Upload bytes to labelled top-k: what is refused, where, and what a drain waits for."""

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import numpy as np
import pytest

from app.serving import errors
from app.serving.service import Classifier
from app.serving.telemetry import Telemetry
from model.errors import DeviceLost, EngineError
from model.inference.engine import TopK
from tests.app.fake_engine import WAIT_S, FakeEngine
from tests.app.squares import ticks

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def started(engine: FakeEngine, **options) -> AsyncIterator[Classifier]:
    defaults = {
        "default_top_k": 3,
        "max_queue_size": 4,
        "max_queue_delay_s": 0.0,
        "max_image_pixels": 10_000,
        "decode_threads": 1,
    }
    classifier = Classifier(engine, Telemetry(), **defaults | options)
    classifier.start()
    try:
        yield classifier
    finally:
        engine.gate.set()
        await classifier.close()


def deadline(timeout_s: float = WAIT_S) -> float:
    return time.monotonic() + timeout_s


async def test_an_image_becomes_labelled_classes(engine, grey):
    async with started(engine) as classifier:
        result = await classifier.classify(grey(7), 2, deadline())
    assert [(one.label, one.class_id, one.probability) for one in result.classes] == [
        ("grey 7", 7, 0.5),
        ("grey 8", 8, 0.25),
    ]
    assert min(result.decode_s, result.inference_s) > 0
    assert result.queue_s >= 0


async def test_no_top_k_means_the_default_and_never_more_than_there_are(engine, grey):
    async with started(engine) as classifier:
        assert len((await classifier.classify(grey(7), None, deadline())).classes) == 3
    async with started(engine, default_top_k=1000) as classifier:
        assert len((await classifier.classify(grey(7), None, deadline())).classes) == 256


async def test_each_of_a_batch_gets_as_many_classes_as_it_asked_for(engine, grey):
    engine.gate.clear()
    async with started(engine) as classifier:
        first = asyncio.ensure_future(classifier.classify(grey(0), 1, deadline()))
        await engine.entered()
        others = [asyncio.ensure_future(classifier.classify(grey(k), k, deadline())) for k in (1, 5, 3)]
        engine.gate.set()
        results = await asyncio.gather(first, *others)
    assert [len(result.classes) for result in results] == [1, 1, 5, 3]


@pytest.mark.parametrize("top_k", [0, -1, 257])
async def test_top_k_is_between_one_and_all(engine, grey, top_k):
    async with started(engine) as classifier:
        with pytest.raises(errors.InvalidParameter, match=f"top_k: {top_k} is not between 1 and 256"):
            await classifier.classify(grey(0), top_k, deadline())


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", errors.InvalidRequest),
        (b"words", errors.UnsupportedMediaType),
        (b"\x89PNG\r\n\x1a\n", errors.UnreadableImage),
    ],
)
async def test_what_is_no_image_is_refused_by_kind(engine, data, error):
    async with started(engine) as classifier:
        with pytest.raises(error) as caught:
            await classifier.classify(data, None, deadline())
        assert type(caught.value) is error
    assert engine.batches == []


async def test_too_many_pixels_are_refused(engine, make_photo, encode):
    async with started(engine) as classifier:
        with pytest.raises(errors.TooManyPixels, match="101×100"):
            await classifier.classify(encode(make_photo(101, 100)), None, deadline())
        assert await classifier.classify(encode(make_photo(100, 100)), None, deadline())


async def test_an_image_for_which_memory_is_short_says_so(engine, grey, monkeypatch):
    def exhausted(*_arguments):
        raise MemoryError

    monkeypatch.setattr("app.serving.service.preprocess", exhausted)
    async with started(engine) as classifier:
        with pytest.raises(errors.Unavailable, match="memory"):
            await classifier.classify(grey(0), None, deadline())


async def test_a_full_queue_refuses_before_any_decoding(engine, grey, until):
    engine.gate.clear()
    async with started(engine, max_queue_size=2) as classifier:
        running = asyncio.ensure_future(classifier.classify(grey(0), None, deadline()))
        await engine.entered()
        waiting = [asyncio.ensure_future(classifier.classify(grey(1), None, deadline())) for _ in range(2)]
        await ticks()
        with pytest.raises(errors.Overloaded):  # and not UnsupportedMediaType: nobody has looked into it
            await classifier.classify(b"words", None, deadline())
        engine.gate.set()
        assert len(await asyncio.gather(running, *waiting)) == 3


async def test_a_broken_image_frees_its_place(engine, grey):
    async with started(engine, max_queue_size=1) as classifier:
        for _ in range(3):
            with pytest.raises(errors.UnsupportedMediaType):
                await classifier.classify(b"words", None, deadline())
        assert await classifier.classify(grey(1), None, deadline())


async def test_decoding_too_has_a_deadline(engine, grey):
    async with started(engine) as classifier:
        with pytest.raises(errors.DeadlineExceeded, match="decoded"):
            await classifier.classify(grey(1), None, deadline(-1))
        assert await classifier.classify(grey(1), None, deadline())
    assert engine.batches == [[1]]


async def test_a_failed_batch_is_over_with_its_answer(engine, grey):
    engine.failures = [EngineError("out of luck")]
    async with started(engine) as classifier:
        with pytest.raises(errors.Unavailable):
            await classifier.classify(grey(1), None, deadline())
        assert classifier.status == "ready"
        assert (await classifier.classify(grey(2), None, deadline())).classes[0].class_id == 2


async def test_a_lost_device_is_the_end(engine, grey):
    engine.failures = [DeviceLost("an illegal memory access")]
    async with started(engine) as classifier:
        with pytest.raises(errors.Unavailable, match="illegal memory access"):
            await classifier.classify(grey(1), None, deadline())
        assert classifier.status == "failed"
        with pytest.raises(errors.Unavailable):
            await classifier.classify(grey(2), None, deadline())
    assert engine.batches == [[1]]


async def test_a_result_that_is_not_finite_is_no_answer(engine, grey, monkeypatch):
    nothing = TopK(np.array([[np.nan]], np.float32), np.array([[0]]))
    monkeypatch.setattr(engine, "predict", lambda images, top_k: nothing)
    async with started(engine) as classifier:
        with pytest.raises(errors.Unavailable, match="finite"):
            await classifier.classify(grey(1), 1, deadline())


async def test_a_drain_waits_for_what_was_admitted_and_admits_no_more(engine, grey):
    async with started(engine) as classifier:
        with classifier.admission():
            draining = asyncio.ensure_future(classifier.drain(WAIT_S))
            await ticks()
            assert classifier.status == "draining"
            assert not draining.done()
            with pytest.raises(errors.Unavailable, match="shutting down"), classifier.admission():
                pass
            assert await classifier.classify(grey(3), None, deadline())  # what is inside is still answered
        await asyncio.wait_for(draining, WAIT_S)


async def test_a_drain_ends_with_its_grace_and_refuses_the_rest(engine, grey, caplog):
    engine.gate.clear()
    async with started(engine) as classifier:
        with classifier.admission():
            task = asyncio.ensure_future(classifier.classify(grey(0), None, deadline()))
            await engine.entered()
            await asyncio.wait_for(classifier.drain(0.01), WAIT_S)
            with pytest.raises(errors.Unavailable, match="shutting down"):
                await asyncio.wait_for(task, WAIT_S)
    assert "1 requests were not answered" in caplog.text


async def test_after_the_grace_what_waits_for_a_decoder_is_refused_too(engine, grey, monkeypatch):
    entered, gate = threading.Event(), threading.Event()

    def held(*_arguments):
        entered.set()
        assert gate.wait(WAIT_S)
        raise AssertionError("nobody waits for this")

    monkeypatch.setattr("app.serving.service.preprocess", held)
    async with started(engine) as classifier:
        with classifier.admission():
            tasks = [asyncio.ensure_future(classifier.classify(grey(0), None, deadline())) for _ in range(3)]
            assert await asyncio.to_thread(entered.wait, WAIT_S)
            await asyncio.wait_for(classifier.drain(0.01), WAIT_S)
            for task in tasks[1:]:
                with pytest.raises(errors.Unavailable, match="shutting down"):
                    await asyncio.wait_for(task, WAIT_S)
            tasks[0].cancel()
            gate.set()


async def test_an_abandoned_upload_is_not_kept_while_it_waits_for_a_decoder(engine, grey, monkeypatch):
    class Upload(bytearray):
        """Bytes that can be watched."""

        __hash__ = object.__hash__

    entered, gate = threading.Event(), threading.Event()

    def held(*_arguments):
        entered.set()
        assert gate.wait(WAIT_S)

    monkeypatch.setattr("app.serving.service.preprocess", held)
    async with started(engine, max_queue_size=8) as classifier:
        first = asyncio.ensure_future(classifier.classify(grey(0), None, deadline()))
        assert await asyncio.to_thread(entered.wait, WAIT_S)
        kept: weakref.WeakSet[Upload] = weakref.WeakSet()
        uploads = [Upload(grey(level)) for level in range(4)]
        kept.update(uploads)
        tasks = [asyncio.ensure_future(classifier.classify(upload, None, deadline())) for upload in uploads]
        await ticks()
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        del uploads, tasks, task
        gc.collect()
        assert len(kept) == 0
        first.cancel()
        gate.set()


async def test_closing_answers_who_waits(engine, grey):
    engine.gate.clear()
    async with started(engine) as classifier:
        task = asyncio.ensure_future(classifier.classify(grey(0), None, deadline()))
        await engine.entered()
        await classifier.close()
        with pytest.raises(errors.Unavailable, match="shutting down"):
            await asyncio.wait_for(task, WAIT_S)
        assert classifier.status != "ready"
