"""receive: from a request to what its body holds, while the request has slots in the service; every route uses it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

from fastapi import Request
from starlette.requests import ClientDisconnect
from starlette.types import Message

from app.api.dependencies import AppContext
from app.api.uploads import BodyReader
from app.serving.admission import Slots
from app.serving.results import Timings
from app.serving.service import ClassificationService

Body = TypeVar("Body")

_BINARY = {"schema": {"type": "string", "format": "binary"}}
_FORM = {
    "schema": {
        "type": "object",
        "required": ["file"],
        "properties": {"file": {"type": "string", "format": "binary", "description": "The image."}},
    }
}
_JSON = {
    "schema": {
        "type": "object",
        "required": ["image"],
        "additionalProperties": False,
        "properties": {"image": {"type": "string", "format": "byte", "description": "The image as base64."}},
    }
}
IMAGE_BODY = {
    "required": True,
    "content": {"multipart/form-data": _FORM, "image/*": _BINARY, "application/json": _JSON},
}
"""OpenAPI's request body of a route that takes one image."""


@asynccontextmanager
async def receive(
    request: Request,
    context: AppContext,
    service: ClassificationService,
    read: Callable[[BodyReader], Awaitable[Body]],
    count: Callable[[Body], int] = lambda body: 1,
) -> AsyncIterator[Body]:
    """Admits a request, and yields what ``read`` returns of its body; ``count(body)`` is how many images that holds.

    The slots for all images are reserved, or ``Overloaded`` is raised, before the block runs. They and the memory of
    the body are released when it ends. If the client disconnects, the block is cancelled and ``ClientDisconnect``
    raised. Also raises ``Unavailable`` and what ``read`` raises.
    """
    with service.admit() as held_slots, context.uploads.reading(request) as reader:
        async with _without_slot_if_slow(held_slots, context.upload_grace_s):
            body = await read(reader)
        held_slots.resize(count(body))
        async with _cancelled_on_disconnect(request):
            yield body


def timing_headers(timings: Timings) -> dict[str, str]:
    """The Server-Timing header of a response, in milliseconds."""
    durations = {"decode": timings.decode_s, "queue": timings.queue_s, "inference": timings.inference_s}
    return {"Server-Timing": ", ".join(f"{name};dur={1000 * seconds:.3f}" for name, seconds in durations.items())}


@asynccontextmanager
async def _without_slot_if_slow(held_slots: Slots, grace_s: float) -> AsyncIterator[None]:
    """Releases the slot of an upload that is not complete after ``grace_s``."""
    timer = asyncio.get_running_loop().call_later(grace_s, held_slots.resize, 0)
    try:
        yield
    finally:
        timer.cancel()


@asynccontextmanager
async def _cancelled_on_disconnect(request: Request) -> AsyncIterator[None]:
    """Cancels the block when the client disconnects, and raises ``ClientDisconnect``."""
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - an async function always runs in a task
    watcher: asyncio.Future[Message] = asyncio.ensure_future(request.receive())

    def cancel(_watcher: asyncio.Future[Message]) -> None:
        task.cancel()

    watcher.add_done_callback(cancel)
    try:
        yield
    except asyncio.CancelledError:
        if not watcher.done():
            raise
        task.uncancel()
        raise ClientDisconnect from None
    finally:
        watcher.remove_done_callback(cancel)
        watcher.cancel()
