"""StaticAssets: the files of the web pages, with ETags and security headers."""

import os
from pathlib import Path
from typing import Any

from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from app.api.context import AppContext

STATIC_DIRECTORY = Path(__file__).parent / "static"

PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self';"
    " base-uri 'none'; form-action 'none'"
)
DOCS_POLICY = (
    # Swagger UI sets styles on elements and draws its icons from data URLs.
    "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:;"
    " object-src 'none'; base-uri 'none'; form-action 'none'"
)


_HEADERS = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Cache-Control": "no-cache"}


class StaticAssets(StaticFiles):
    """Files whose responses carry ``policy``, and the pages that may embed them, which are configured.

    Browsers revalidate them, as their names do not change with a release.
    """

    def __init__(self, policy: str, **source: Any) -> None:  # Any: the arguments of StaticFiles
        super().__init__(**source)
        self._policy = policy

    def file_response(
        self,
        full_path: str | os.PathLike[str],
        stat_result: os.stat_result,
        scope: Scope,
        status_code: int = 200,
    ) -> Response:
        """The file, or 304 if the client has it."""
        response = super().file_response(full_path, stat_result, scope, status_code)
        context: AppContext = scope["app"].state.context
        policy = f"{self._policy}; frame-ancestors {context.frame_ancestors}"
        response.headers.update(_HEADERS | {"Content-Security-Policy": policy})
        return response
