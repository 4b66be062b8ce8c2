"""GET /: the web page, and GET /static: its files."""

from fastapi import APIRouter, Request, Response

from app.api.static_files import PAGE_POLICY, STATIC_DIRECTORY, StaticAssets

router = APIRouter(include_in_schema=False)
static_files = StaticAssets(policy=PAGE_POLICY, directory=STATIC_DIRECTORY)


@router.get("/")
async def page(request: Request) -> Response:
    """A page that classifies photos."""
    return await static_files.get_response("index.html", request.scope)
