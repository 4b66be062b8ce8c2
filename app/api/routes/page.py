"""GET /: a page to drop a photo on."""

from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import FileResponse

router = APIRouter(include_in_schema=False)

_PAGE = Path(__file__).parent.parent / "static" / "index.html"


@router.get("/")
async def page() -> FileResponse:
    """The web page."""
    return FileResponse(_PAGE)
