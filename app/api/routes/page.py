"""GET /: the web page."""

from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import FileResponse

router = APIRouter(include_in_schema=False)

_PAGE = Path(__file__).parent.parent / "static" / "index.html"


@router.api_route("/", methods=["GET", "HEAD"])
async def page() -> FileResponse:
    """A page that classifies a photo."""
    return FileResponse(_PAGE)
