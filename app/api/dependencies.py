"""FastAPI dependencies of the routes, as Annotated aliases."""

from typing import Annotated

from fastapi import Depends, Request, Security
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer

from app.api.context import AppContext, context_of
from app.api.problems import Unauthorized
from app.serving.errors import Unavailable
from app.serving.service import ClassificationService


async def _context(request: Request) -> AppContext:
    return context_of(request)


ContextDep = Annotated[AppContext, Depends(_context)]


async def _service(request: Request) -> ClassificationService:
    service = context_of(request).service
    if service is None:
        raise Unavailable("The service is starting.")
    return service


ServiceDep = Annotated[ClassificationService, Depends(_service)]


async def require_key(
    context: ContextDep,
    bearer: Annotated[HTTPAuthorizationCredentials | None, Security(HTTPBearer(auto_error=False))],
    header: Annotated[str | None, Security(APIKeyHeader(name="X-API-Key", auto_error=False))],
) -> None:
    """Rejects a request without a valid key before its body is read. Raises ``Unauthorized``."""
    sent = [bearer.credentials if bearer else "", header or ""]
    if not context.keys.accept(*(value.encode("latin-1") for value in sent)):  # as Starlette decoded them
        raise Unauthorized("Send a valid key as 'Authorization: Bearer KEY' or 'X-API-Key: KEY'.")
