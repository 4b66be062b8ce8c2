"""Uploads: the image bytes of a request, read within limits."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from fastapi import Request

from app.api.encodings import NO_URLS, decode_base64, is_url, parse_json
from app.api.multipart import FormFile, FormFiles
from app.api.problems import InvalidRequest, UnsupportedMediaType, UploadTooLarge
from app.serving.errors import Overloaded
from model.images.decode import is_image

_MAX_CONTENT_TYPE_LENGTH = 512  # characters; RFC 2046 allows a boundary of 70
_ACCEPTED = "image/jpeg, image/png, image/webp, image/gif, image/bmp, image/tiff or image/avif"


@dataclass
class UploadLimits:
    """Limits in bytes for one body and for all bodies in memory."""

    max_upload_bytes: int
    max_buffered_bytes: int
    buffered_bytes: int = 0

    @contextmanager
    def reading(self, request: Request) -> Iterator["BodyReader"]:
        """Reads one body; what it holds counts towards ``max_buffered_bytes`` until the end of the block."""
        reader = BodyReader(request, self)
        try:
            yield reader
        finally:
            self.buffered_bytes -= reader.received_bytes


class BodyReader:
    """The body of one request. Raises ``UploadTooLarge`` or ``Overloaded`` as soon as a limit is exceeded."""

    def __init__(self, request: Request, limits: UploadLimits) -> None:
        self.received_bytes = 0
        self._request = request
        self._limits = limits

    async def image(self) -> bytes:
        """The encoded image: the multipart part named ``file``, or the body itself.

        Raises ``InvalidRequest``, ``UnsupportedMediaType``, ``UploadTooLarge`` or ``Overloaded``.
        """
        image = await self._read(self._content_type())
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
        return await self._read_body()

    def _content_type(self) -> str:
        content_type = self._request.headers.get("content-type", "")
        if len(content_type) > _MAX_CONTENT_TYPE_LENGTH:
            raise InvalidRequest(f"The Content-Type header is longer than {_MAX_CONTENT_TYPE_LENGTH} characters.")
        return content_type

    async def _read(self, content_type: str) -> bytes:
        media_type = content_type.partition(";")[0].strip().lower()
        if media_type == "multipart/form-data":
            [file] = await self._read_files(content_type, "file", 1)
            return bytes(file.content)
        if media_type == "application/json":
            return await self._read_json()
        if not media_type.startswith("multipart/"):
            body = await self._read_body()
            if media_type.startswith("image/") or media_type in ("", "application/octet-stream") or is_image(body):
                return body
            if is_url(body[:8].decode("latin-1")):
                raise InvalidRequest(f"Send the image itself as the body: {NO_URLS}.")
        raise UnsupportedMediaType(
            f"The content type {media_type!r} is not accepted: send multipart/form-data with a part named 'file',"
            f" application/json with a base64 string named 'image', or the image itself as {_ACCEPTED}."
        )

    async def _read_body(self) -> bytes:
        body = bytearray()  # many small chunks would take several times their size
        await self._receive(body.extend)
        return bytes(body)

    async def _read_files(self, content_type: str, field_name: str, max_files: int) -> list[FormFile]:
        form = FormFiles(content_type, field_name, max_files)
        await self._receive(form.write)
        return form.finish()

    async def _read_json(self) -> bytes:
        document = parse_json(await self._read_body())
        if not isinstance(document, dict) or set(document) != {"image"}:
            raise InvalidRequest(
                'The JSON body must be {"image": "<base64>"} and nothing else: parameters belong in the query, and'
                f" {NO_URLS}."
            )
        return await decode_base64(document["image"])

    async def _receive(self, write: Callable[[bytes], object]) -> None:
        limits = self._limits
        announced = self._request.headers.get("content-length", "")
        if announced.isdecimal() and int(announced[:20]) > limits.max_upload_bytes:
            raise self._too_large()
        async for chunk in self._request.stream():
            self.received_bytes += len(chunk)
            limits.buffered_bytes += len(chunk)
            if self.received_bytes > limits.max_upload_bytes:
                raise self._too_large()
            if limits.buffered_bytes > limits.max_buffered_bytes:
                raise Overloaded("The uploads in progress take all the memory that is set aside for them.", 1.0)
            if chunk:
                write(chunk)

    def _too_large(self) -> UploadTooLarge:
        return UploadTooLarge(f"The body exceeds the limit of {self._limits.max_upload_bytes} bytes.")
