"""What routes depend on, as Annotated aliases."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request, Security
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer
from fastapi.security.utils import get_authorization_scheme_param
from starlette.datastructures import Headers

from app.api.keys import ApiKeys
from app.api.problems import Unauthorized
from app.api.uploads import UploadLimits
from app.serving.errors import Unavailable
from app.serving.service import ClassificationService
from app.serving.telemetry import Telemetry


@dataclass
class AppContext:
    """What one application consists of; ``service`` is None until the lifespan has started it."""

    telemetry: Telemetry
    uploads: UploadLimits
    keys: ApiKeys
    request_timeout_s: float
    max_images_per_request: int
    upload_grace_s: float = 1.0  # for which an upload holds its slot before it is complete
    service: ClassificationService | None = None


async def _context(request: Request) -> AppContext:
    context: AppContext = request.app.state.context
    return context


ContextDep = Annotated[AppContext, Depends(_context)]


async def _service(context: ContextDep) -> ClassificationService:
    return running_service(context)


def running_service(context: AppContext) -> ClassificationService:
    """The service. Raises ``Unavailable`` before it has been started."""
    if context.service is None:
        raise Unavailable("The service is starting.")
    return context.service


ServiceDep = Annotated[ClassificationService, Depends(_service)]


async def require_key(
    request: Request,
    context: ContextDep,
    _bearer: Annotated[HTTPAuthorizationCredentials | None, Security(HTTPBearer(auto_error=False))],
    _header: Annotated[str | None, Security(APIKeyHeader(name="X-API-Key", auto_error=False))],
) -> None:
    """Rejects a request without a valid key before its body is read; the last two parameters describe it in OpenAPI."""
    check_key(context.keys, request.headers)


def check_key(keys: ApiKeys, headers: Headers) -> None:
    """Raises ``Unauthorized`` if ``headers`` have no valid key."""
    scheme, bearer = get_authorization_scheme_param(headers.get("authorization"))
    sent = [bearer if scheme.lower() == "bearer" else "", headers.get("x-api-key", "")]
    if not keys.accept(*(value.encode("latin-1") for value in sent)):  # as Starlette decoded them
        raise Unauthorized("Send a valid key as 'Authorization: Bearer KEY' or 'X-API-Key: KEY'.")
