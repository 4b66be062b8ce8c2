"""What a route may ask for, as Annotated aliases."""

import hmac
from typing import Annotated

from fastapi import Depends, Request, Security
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer

from app.serving.errors import Unauthorized, Unavailable
from app.serving.service import Classifier
from app.serving.telemetry import Telemetry


async def _telemetry(request: Request) -> Telemetry:
    telemetry: Telemetry = request.app.state.telemetry
    return telemetry


async def _classifier_or_none(request: Request) -> Classifier | None:
    classifier: Classifier | None = request.app.state.classifier
    return classifier


async def _classifier(request: Request) -> Classifier:
    classifier: Classifier | None = request.app.state.classifier
    if classifier is None:
        raise Unavailable("The service is starting.")
    return classifier


async def require_key(
    request: Request,
    bearer: Annotated[HTTPAuthorizationCredentials | None, Security(HTTPBearer(auto_error=False))],
    header: Annotated[str | None, Security(APIKeyHeader(name="X-API-Key", auto_error=False))],
) -> None:
    """Refuses a request without one of the keys, before its body is read; every one is compared."""
    keys: list[bytes] = request.app.state.api_keys
    given = [bearer.credentials if bearer else "", header or ""]
    matches = [hmac.compare_digest(one.encode(), key) for one in given for key in keys]
    if not any(matches):
        raise Unauthorized("Send a valid key as 'Authorization: Bearer KEY' or 'X-API-Key: KEY'.")


TelemetryDep = Annotated[Telemetry, Depends(_telemetry)]
ClassifierDep = Annotated[Classifier, Depends(_classifier)]
ClassifierOrNoneDep = Annotated[Classifier | None, Depends(_classifier_or_none)]
