"""JSON and base64, decoded without keeping the event loop busy for long."""

import asyncio
import base64
import json
from typing import Any

from pydantic_core import from_json

from app.api.problems import InvalidRequest, UploadTooLarge

# While JSON is parsed, nothing else runs: so much takes up to 25 ms.
MAX_JSON_BYTES = 10_000_000
MAX_JSON_VALUES = 250_000
MAX_JSON_MEMBERS = 50_000  # of objects
_CHUNK = 1 << 18  # bytes or characters; other threads and requests run between two chunks
_INLINE = 1 << 17  # characters; decoding so few takes less time than handing them to a thread

NO_URLS = "URLs are not fetched, as they could reach internal hosts"


def is_url(start: str) -> bool:
    """Whether a text that begins with ``start`` is the URL of a page or an image."""
    return start.lower().startswith(("http://", "https://"))


def parse_json(body: bytes) -> Any:  # Any: JSON
    """The value of a JSON document. Raises ``UploadTooLarge``, or ``InvalidRequest`` if it is malformed."""
    if len(body) > MAX_JSON_BYTES:
        raise UploadTooLarge(f"A JSON body may have up to {MAX_JSON_BYTES} bytes; send larger images as binary data.")
    if body.count(b",") + body.count(b"[") + body.count(b"{") > MAX_JSON_VALUES:
        raise InvalidRequest(f"The JSON body has more than {MAX_JSON_VALUES} values.")
    if body.count(b":") > MAX_JSON_MEMBERS:
        raise InvalidRequest(f"The objects in the JSON body have more than {MAX_JSON_MEMBERS} members.")
    try:
        encoding = json.detect_encoding(body)
        return from_json(body if encoding == "utf-8" else body.decode(encoding).encode())
    except ValueError as error:
        raise InvalidRequest(f"The body is not valid JSON: {error}") from error


async def decode_base64(text: object) -> bytes:
    """The bytes of a base64 string, which may be a ``data:`` URL. Raises ``InvalidRequest``.

    Both alphabets of RFC 4648 are accepted, with and without padding; whitespace is ignored.
    """
    if not isinstance(text, str):
        raise InvalidRequest("An image must be a base64 string.")
    start = text[:100].strip().lower()
    if is_url(start):
        raise InvalidRequest(f"Send the image itself as base64: {NO_URLS}.")
    if start.startswith("data:"):
        header, _, text = text.partition(",")
        if not header.lower().endswith(";base64"):
            raise InvalidRequest("A data: URL must be in base64.")
    decoded = _decode(text) if len(text) <= _INLINE else await asyncio.to_thread(_decode, text)
    if not decoded:
        raise InvalidRequest("The image is empty.")
    return decoded


def _decode(text: str) -> bytes:
    """Decodes chunk by chunk, as other threads cannot run during one."""
    parts: list[bytes] = []
    rest = ""
    try:
        for start in range(0, len(text), _CHUNK):
            chunk = rest + "".join(text[start : start + _CHUNK].split())
            end = max(len(chunk) // 4 * 4 - 4, 0)  # the last characters may have the padding, so they wait
            if "=" in chunk[:end]:
                raise InvalidRequest("An image is not valid base64: there is data after its padding.")
            parts.append(_decode_groups(chunk[:end]))
            rest = chunk[end:]
        parts.append(_decode_groups(rest + "=" * (-len(rest) % 4)))
    except ValueError as error:
        raise InvalidRequest(f"An image is not valid base64: {error}") from error
    return b"".join(parts)


def _decode_groups(text: str) -> bytes:
    return base64.b64decode(text.replace("-", "+").replace("_", "/"), validate=True)
