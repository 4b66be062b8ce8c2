"""create_app: builds the application; its lifespan loads, warms up and closes everything."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware

from app.api.context import AppContext, UploadLimits
from app.api.formats import include_formats
from app.api.keys import ApiKeys
from app.api.middleware import RequestMiddleware
from app.api.openapi import describe_labels, operation_id
from app.api.problems import install_handlers
from app.api.route_table import RouteTable
from app.api.routes import include_routers
from app.serving.service import ClassificationService, Limits
from app.serving.telemetry import Telemetry
from app.settings import Settings
from model import load_model
from model.errors import EngineError
from model.images.decode import is_image, load_decoders
from model.images.transform import preprocess
from model.inference.cpu import available_cores
from model.inference.engine import InferenceEngine

logger = logging.getLogger(__name__)

_CORS_HEADERS = (
    *("Authorization", "Content-Type", "X-API-Key", "X-Request-ID", "X-Requested-With", "Cache-Control"),
    *("traceparent", "tracestate", "baggage"),  # W3C Trace Context and Baggage
    *("If-Match", "If-Modified-Since", "If-None-Match", "If-Unmodified-Since"),
)


def create_app(
    settings: Settings, engine: InferenceEngine | None = None, telemetry: Telemetry | None = None
) -> FastAPI:
    """The application. Without an ``engine``, start-up builds the one that ``settings`` describe.

    Raises ``OSError`` if the file of API keys is missing or empty, and ``EngineError`` if tracing is not installed.
    Start-up raises ``model.errors.ModelError`` if the model or the device is not available.
    """
    if settings.tracing and find_spec("opentelemetry.sdk") is None:
        raise EngineError("tracing needs OpenTelemetry's SDK: pip install 'convnext-serve[otel]'")
    context = _build_context(settings, telemetry or Telemetry(tracing=settings.tracing))

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        context.routes.add(app.routes)  # those of the framework, and what was added or mounted by others
        ready_engine = engine if engine is not None else await asyncio.to_thread(build_engine, settings)
        load_decoders()
        decode = partial(preprocess, transform=ready_engine.model.transform, max_image_pixels=settings.max_image_pixels)
        context.service = ClassificationService(ready_engine, decode, context.telemetry, _limits(settings))
        context.service.start()
        _describe(context.telemetry, ready_engine)
        try:
            yield
        finally:
            context.service.close()

    app = _build_fastapi(settings, context.routes, lifespan)
    app.state.context = context
    app.add_middleware(RequestMiddleware, context=context)
    if settings.cors_origins:
        _allow_origins(app, sorted(settings.cors_origins))
    install_handlers(app)
    describe_labels(app, context)
    vertex_paths = settings.vertex_health_route, settings.vertex_predict_route
    include_formats(app, context.routes, settings.protocols, vertex_paths, require_keys=context.keys.required)
    include_routers(app, context.routes, require_keys=context.keys.required)
    if settings.protocols:
        logger.info("additional protocols: %s", ", ".join(sorted(settings.protocols)))
    return app


def _build_fastapi(
    settings: Settings, routes: RouteTable, lifespan: Callable[[FastAPI], AbstractAsyncContextManager[None]]
) -> FastAPI:
    return FastAPI(
        title="convnext-serve",
        summary="Classifies images with ConvNeXt.",
        version=version("convnext-serve"),
        lifespan=lifespan,
        docs_url=None,  # see app.api.routes.docs
        redoc_url=None,
        redirect_slashes=False,
        generate_unique_id_function=operation_id,
        # Traces of requests are FastAPI's own; metrics and logs are this application's.
        telemetry={
            "tracing": settings.tracing,
            "auto_configure": settings.tracing,
            "metrics": False,
            "logs": False,
            "operation_spans": False,
            "exclude": lambda scope: routes.find(scope["path"].removeprefix(scope.get("root_path", ""))).is_probe,
        },
    )


def build_engine(settings: Settings) -> InferenceEngine:
    """Loads the model that ``settings`` name, downloading it if needed, and warms up its engine."""
    model = load_model(
        settings.model,
        labels=settings.labels,
        activation=settings.activation,
        ema=settings.ema,
        cache_dir=settings.cache_dir,
    )
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
        "serving %s (%s, licence %s) on %s in %s (%s), %s, batches up to %d: %.1f images/s",
        model.name,
        model.family,
        model.licence,
        engine.device,
        engine.precision,
        engine.precision_reason,
        engine.mode,
        engine.max_batch_size,
        engine.expected_rate,
    )
    return engine


def _allow_origins(app: FastAPI, origins: list[str]) -> None:
    """Outermost, so that responses of the other middleware are readable by these origins, too."""
    app.add_middleware(
        CORSMiddleware,
        allow_origins=origins,
        allow_methods=["GET", "POST"],
        allow_headers=_CORS_HEADERS,
        expose_headers=["ETag", "Retry-After", "Server-Timing", "X-Request-ID"],
    )


def _describe(telemetry: Telemetry, engine: InferenceEngine) -> None:
    telemetry.describe(
        version=version("convnext-serve"),
        model=engine.model.name,
        device=str(engine.device),
        precision=engine.precision,
        mode=engine.mode,
    )


def _build_context(settings: Settings, telemetry: Telemetry) -> AppContext:
    return AppContext(
        telemetry=telemetry,
        uploads=UploadLimits(settings.max_upload_bytes, settings.max_buffered_bytes),
        routes=RouteTable(),
        is_image=is_image,
        keys=ApiKeys((key.get_secret_value() for key in settings.api_keys), settings.api_keys_file),
        request_timeout_s=settings.request_timeout_s,
        max_images_per_request=min(settings.max_images_per_request, settings.max_queue_size),  # more never fit
        frame_ancestors=" ".join(sorted(settings.frame_ancestors)) or "'none'",
    )


def _limits(settings: Settings) -> Limits:
    return Limits(
        default_top_k=settings.top_k,
        max_queue_size=settings.max_queue_size,
        max_queue_wait_s=min(settings.max_queue_wait_s, settings.request_timeout_s),
        request_timeout_s=settings.request_timeout_s,
        max_queue_delay_s=settings.max_queue_delay_ms / 1000,
        decode_threads=settings.decode_threads or available_cores(),
        decode_timeout_s=min(settings.decode_timeout_s, settings.request_timeout_s),
    )
