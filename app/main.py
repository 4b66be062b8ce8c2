"""create_app: builds the service, and its lifespan: load, warm up, serve, close."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from app.api.middleware import BodyLimit, RequestRecord
from app.api.routes import build_router
from app.serving.errors import install_handlers
from app.serving.service import Classifier
from app.serving.telemetry import Telemetry
from app.settings import Settings
from model import load_model
from model.inference.engine import InferenceEngine, available_cores

logger = logging.getLogger(__name__)


def create_app(settings: Settings | None = None, engine: InferenceEngine | None = None) -> FastAPI:
    """The application; ``engine`` None builds one of ``settings`` (None: the environment's) at start-up.

    What start-up raises: ``model.errors.ModelError`` where the model or the device is not to be had.
    """
    settings = settings or Settings()
    telemetry = Telemetry()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        running = engine if engine is not None else await asyncio.to_thread(build_engine, settings)
        classifier = _build_classifier(running, telemetry, settings)
        classifier.start()
        app.state.classifier = classifier
        try:
            yield
        finally:
            await classifier.close()

    app = FastAPI(
        title="convnext-serve",
        summary="Classifies images with ConvNeXt.",
        version="0.1.0",
        lifespan=lifespan,
        redoc_url=None,
    )
    app.state.classifier = None
    app.state.telemetry = telemetry
    app.state.api_keys = [key.get_secret_value().encode() for key in settings.api_keys]
    app.state.request_timeout_s = settings.request_timeout_s
    app.add_middleware(
        BodyLimit, max_upload_bytes=settings.max_upload_bytes, max_buffered_bytes=settings.max_buffered_bytes
    )
    app.add_middleware(RequestRecord, telemetry=telemetry)  # added last, so outermost
    install_handlers(app)
    app.include_router(build_router(needs_key=bool(settings.api_keys)))
    return app


def build_engine(settings: Settings) -> InferenceEngine:
    """Loads the model that ``settings`` name, fetching it where need be, and warms its engine up."""
    model = load_model(settings.model, labels=settings.labels, cache_dir=settings.cache_dir)
    engine = InferenceEngine(
        model,
        device=settings.device,
        runtime=settings.runtime,
        precision=settings.precision,
        compile=settings.compile,
        max_batch_size=settings.max_batch_size,
        threads=settings.cpu_threads,
    )
    engine.warm_up()
    logger.info(
        "serving %s (%s, licence %s) on %s in %s, %s, batches up to %d: %.1f images/s",
        model.name,
        model.family,
        model.licence,
        engine.device,
        engine.precision,
        engine.mode,
        engine.max_batch_size,
        engine.expected_rate,
    )
    return engine


def _build_classifier(engine: InferenceEngine, telemetry: Telemetry, settings: Settings) -> Classifier:
    return Classifier(
        engine,
        telemetry,
        default_top_k=settings.top_k,
        max_queue_size=settings.max_queue_size,
        max_queue_delay_s=settings.max_queue_delay_ms / 1000,
        max_image_pixels=settings.max_image_pixels,
        decode_threads=settings.decode_threads or available_cores(),
    )
