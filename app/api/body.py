"""admitted_body: reads a request's body within limits, with slots for its images; used by every prediction route."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from typing import TypeVar

from fastapi import Request
from starlette.requests import ClientDisconnect
from starlette.types import Message

from app.api.content_coding import decompressed
from app.api.context import AppContext, context_of
from app.api.decoding import NO_URLS, decode_base64, is_url, parse_json
from app.api.form import FormFile, FormFiles
from app.api.problems import InvalidRequest, UnsupportedMediaType, UploadTooLarge
from app.serving.admission import Slots
from app.serving.errors import Overloaded
from app.serving.service import ClassificationService

Body = TypeVar("Body")

_MAX_CONTENT_TYPE_LENGTH = 512  # characters; RFC 2046 allows a boundary of 70
_BINARY = ("", "*/*", "application/octet-stream", "binary/octet-stream", "application/x-image")  # S3's and SageMaker's
_ACCEPTED = "image/jpeg, image/png, image/webp, image/gif, image/bmp, image/tiff or image/avif"


@asynccontextmanager
async def admitted_body(
    request: Request,
    service: ClassificationService,
    read: Callable[["BodyReader"], Awaitable[Body]],
    count: Callable[[Body], int] = lambda body: 1,
) -> AsyncIterator[Body]:
    """Admits a request, and yields what ``read`` returns of its body; ``count(body)`` is how many images that holds.

    The slots for all images are reserved, or ``Overloaded`` is raised, before the block runs. They and the memory of
    the body are released when it ends. If the client disconnects, the block is cancelled and ``ClientDisconnect``
    raised. Also raises ``Unavailable`` and what ``read`` raises.
    """
    context = context_of(request)
    with service.admit() as slots, closing(BodyReader(request, context)) as reader:
        async with _without_slot_if_slow(slots, context.upload_grace_s):
            body = await read(reader)
        slots.resize(count(body))
        async with _cancelled_on_disconnect(request):
            yield body


class BodyReader:
    """The body of one request. Raises ``UploadTooLarge`` or ``Overloaded`` as soon as a limit is exceeded.

    What it holds counts towards ``max_buffered_bytes`` until it is closed.
    """

    def __init__(self, request: Request, context: AppContext) -> None:
        self._held_bytes = 0
        self._request = request
        self._limits = context.uploads
        self._is_image = context.is_image

    def close(self) -> None:
        """Releases the memory."""
        self._limits.buffered_bytes -= self._held_bytes

    async def image(self, from_json: Callable[[bytes], Awaitable[bytes]] | None = None) -> bytes:
        """The encoded image: the multipart part named ``file``, the one in JSON, or the body itself.

        ``from_json`` returns that of a JSON document, which is ``{"image": "<base64>"}`` without it. Raises
        ``InvalidRequest``, ``UnsupportedMediaType``, ``UploadTooLarge`` or ``Overloaded``.
        """
        image = await self._read(self._content_type(), from_json or _image_in_json)
        if not image:
            raise InvalidRequest("The image is empty.")
        return image

    async def files(self, max_files: int) -> list[FormFile]:
        """The multipart parts named ``files``, one to ``max_files``; otherwise like ``image``."""
        content_type = self._content_type()
        if not content_type.lower().startswith("multipart/form-data"):
            raise UnsupportedMediaType("Send multipart/form-data with one part named 'files' for each image.")
        return await self._read_files(content_type, "files", max_files)

    async def body(self) -> bytes:
        """The body as it is, whatever its content type. Raises ``UploadTooLarge`` or ``Overloaded``."""
        body = bytearray()  # many small chunks would take several times their size
        await self._receive(body.extend)
        return bytes(body)

    def _content_type(self) -> str:
        content_type = self._request.headers.get("content-type", "")
        if len(content_type) > _MAX_CONTENT_TYPE_LENGTH:
            raise InvalidRequest(f"The Content-Type header is longer than {_MAX_CONTENT_TYPE_LENGTH} characters.")
        return content_type

    async def _read(self, content_type: str, from_json: Callable[[bytes], Awaitable[bytes]]) -> bytes:
        media_type = content_type.partition(";")[0].strip().lower()
        if media_type == "multipart/form-data":
            [file] = await self._read_files(content_type, "file", 1)
            return file.content
        if media_type.startswith("multipart/"):
            raise _unsupported(media_type)
        body = await self.body()
        if media_type.startswith("image/") or media_type in _BINARY or self._is_image(body):
            return body
        if body.startswith(b"--"):
            raise InvalidRequest(
                f"The body begins like a form, but the Content-Type is {media_type!r}: send the one that the client has"
                " generated for the form, multipart/form-data with a boundary."
            )
        if media_type.endswith("json") or body[:100].lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{"):
            return await from_json(body)
        if is_url(body[:8].decode("latin-1")):
            raise InvalidRequest(f"Send the image itself as the body: {NO_URLS}.")
        raise _unsupported(media_type)

    async def _read_files(self, content_type: str, field_name: str, max_files: int) -> list[FormFile]:
        form = FormFiles(content_type, field_name, max_files, self._is_image)
        await self._receive(form.write)
        return form.finish()

    async def _receive(self, write: Callable[[bytes], object]) -> None:
        """Passes the content of the body on to ``write``; what is sent and what it decompresses to is limited."""
        announced = self._request.headers.get("content-length", "")
        if announced.isdecimal() and int(announced[:20]) > self._limits.max_upload_bytes:
            raise self._too_large()
        async for chunk in decompressed(self._sent(), self._request.headers.getlist("content-encoding")):
            if chunk:
                self._hold(len(chunk))
                write(chunk)

    async def _sent(self) -> AsyncIterator[bytes]:
        sent_bytes = 0
        async for chunk in self._request.stream():
            sent_bytes += len(chunk)
            if sent_bytes > self._limits.max_upload_bytes:
                raise self._too_large()
            yield chunk

    def _hold(self, size_bytes: int) -> None:
        self._held_bytes += size_bytes
        self._limits.buffered_bytes += size_bytes
        if self._held_bytes > self._limits.max_upload_bytes:
            raise self._too_large()
        if self._limits.buffered_bytes > self._limits.max_buffered_bytes:
            raise Overloaded("The uploads in progress take all the memory that is set aside for them.", 1.0)

    def _too_large(self) -> UploadTooLarge:
        return UploadTooLarge(f"The body exceeds the limit of {self._limits.max_upload_bytes} bytes.")


async def _image_in_json(body: bytes) -> bytes:
    document = parse_json(body)
    if not isinstance(document, dict) or set(document) != {"image"}:
        raise InvalidRequest(
            'The JSON body must be {"image": "<base64>"} and nothing else: parameters belong in the query, and'
            f" {NO_URLS}."
        )
    return await decode_base64(document["image"])


def _unsupported(media_type: str) -> UnsupportedMediaType:
    return UnsupportedMediaType(
        f"The content type {media_type!r} is not accepted: send multipart/form-data with a part named 'file',"
        f" application/json with a base64 string named 'image', or the image itself as {_ACCEPTED}."
    )


@asynccontextmanager
async def _without_slot_if_slow(slots: Slots, grace_s: float) -> AsyncIterator[None]:
    """Releases the slot of an upload that is not complete after ``grace_s``."""
    timer = asyncio.get_running_loop().call_later(grace_s, slots.resize, 0)
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
