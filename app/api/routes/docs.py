"""GET /docs: Swagger UI, from files of this process alone."""

from importlib.resources import files
from pathlib import Path

from fastapi import APIRouter, HTTPException
from fastapi.responses import FileResponse

router = APIRouter(include_in_schema=False)

_STATIC = Path(__file__).parent.parent / "static"
_OWN_FILES = {"swagger.js"}
_PACKAGE_FILES = {"swagger-ui-bundle.js", "swagger-ui.css", "favicon-32x32.png"}
_HEADERS = {
    # Swagger UI sets styles on elements and draws its icons from data URLs.
    "Content-Security-Policy": "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:;"
    " object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
}


@router.api_route("/docs", methods=["GET", "HEAD"])
async def docs() -> FileResponse:
    """The API's documentation."""
    return FileResponse(_STATIC / "docs.html", headers=_HEADERS)


@router.api_route("/docs/{name}", methods=["GET", "HEAD"])
async def docs_file(name: str) -> FileResponse:
    """A script, style sheet or image of the documentation."""
    if name in _OWN_FILES:
        return FileResponse(_STATIC / name, headers=_HEADERS)
    if name in _PACKAGE_FILES:
        return FileResponse(str(files("fastapi_swagger.resources") / name), headers=_HEADERS)
    raise HTTPException(404)
