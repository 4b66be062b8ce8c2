"""AppContext: what one application consists of."""

from collections.abc import Callable
from dataclasses import dataclass

from fastapi import Request

from app.api.keys import ApiKeys
from app.api.route_table import RouteTable
from app.serving.service import ClassificationService
from app.serving.telemetry import Telemetry


@dataclass
class UploadLimits:
    """Limits in bytes for one body and for all bodies in memory, of which there are ``buffered_bytes`` now."""

    max_upload_bytes: int
    max_buffered_bytes: int
    buffered_bytes: int = 0


@dataclass
class AppContext:
    """What the middleware and the routes use; ``service`` is None until the lifespan has started it."""

    telemetry: Telemetry
    uploads: UploadLimits
    keys: ApiKeys
    routes: RouteTable
    is_image: Callable[[bytes], bool]  # whether data begins like an image of an accepted format
    request_timeout_s: float
    max_images_per_request: int
    frame_ancestors: str = "'none'"  # sources of a Content-Security-Policy: the pages that may embed this one
    upload_grace_s: float = 1.0  # for which an upload holds its slot before it is complete
    service: ClassificationService | None = None
    another_is_ready: Callable[[], bool] = lambda: False  # whether another worker of the same port accepts predictions


def context_of(request: Request) -> AppContext:
    """The context of the application that ``request`` was sent to."""
    context: AppContext = request.app.state.context
    return context
