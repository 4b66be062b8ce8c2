"""GET /docs: Swagger UI, from files of this process alone."""

from fastapi import APIRouter, HTTPException, Request, Response

from app.api.static_files import DOCS_POLICY, STATIC_DIRECTORY, StaticAssets

router = APIRouter(include_in_schema=False)

_OWN = StaticAssets(policy=DOCS_POLICY, directory=STATIC_DIRECTORY)
_PACKAGE = StaticAssets(policy=DOCS_POLICY, packages=[("fastapi_swagger", "resources")])
_FILES = {
    "swagger.js": _OWN,
    "swagger-ui-bundle.js": _PACKAGE,
    "swagger-ui.css": _PACKAGE,
    "favicon-32x32.png": _PACKAGE,
}


@router.get("/docs")
async def docs(request: Request) -> Response:
    """The API's documentation."""
    return await _OWN.get_response("docs.html", request.scope)


@router.get("/docs/{name}")
async def docs_file(name: str, request: Request) -> Response:
    """A script, style sheet or image of the documentation."""
    if name not in _FILES:
        raise HTTPException(404)
    return await _FILES[name].get_response(name, request.scope)
