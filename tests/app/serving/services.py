"""A service of a fake engine."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

from app.serving.results import Classification, ClassifyOptions
from app.serving.service import ClassificationService, Limits
from app.serving.telemetry import Telemetry
from model.images.jpeg import Pixels
from model.images.transform import preprocess
from tests.app.fake_engine import FakeEngine
from tests.constants import WAIT_S

LIMITS = Limits(
    default_top_k=3,
    max_queue_size=4,
    max_queue_wait_s=1.0,
    request_timeout_s=WAIT_S,
    max_queue_delay_s=0.0,
    decode_threads=1,
    decode_timeout_s=WAIT_S,
    probe_interval_s=0.01,
)


@asynccontextmanager
async def started(
    engine: FakeEngine, limits: Limits = LIMITS, decode: Callable[[bytes], Pixels] | None = None
) -> AsyncIterator[ClassificationService]:
    service = ClassificationService(
        engine,
        decode or partial(preprocess, transform=engine.model.transform, max_image_pixels=10_000),
        Telemetry(),
        limits,
    )
    service.start()
    try:
        yield service
    finally:
        engine.gate.set()
        service.close()


async def classify(service: ClassificationService, data: bytes, top_k: int | None = None) -> Classification:
    """Classifies one image as the route does."""
    async with asyncio.timeout(WAIT_S):
        with service.admit():
            return await service.classify(data, ClassifyOptions(top_k))
