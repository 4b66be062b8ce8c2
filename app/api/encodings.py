"""JSON and base64 bodies, parsed without keeping the event loop busy."""

import asyncio
import base64
import json
from typing import Any

from app.api.problems import InvalidRequest

MAX_JSON_VALUES = 250_000  # parsing so many takes about 10 ms, in which nothing else runs
_CHUNK = 1 << 20  # characters; a multiple of 4. Other threads run between two chunks
_INLINE = 1 << 18  # characters; decoding so few takes less time than handing them to a thread


NO_URLS = "URLs are not fetched, as they could reach internal hosts"


def is_url(start: str) -> bool:
    """Whether a text that begins with ``start`` is the URL of a page or an image."""
    return start.lower().startswith(("http://", "https://"))


def parse_json(body: bytes) -> Any:  # Any: JSON
    """The value of a JSON document. Raises ``InvalidRequest`` if it is malformed or has too many values."""
    if body.count(b",") + body.count(b"[") + body.count(b"{") > MAX_JSON_VALUES:
        raise InvalidRequest(f"The JSON body has more than {MAX_JSON_VALUES} values.")
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"The body is not valid JSON: {error}") from error


async def decode_base64(text: object) -> bytes:
    """The bytes of a base64 string, which may be a ``data:`` URL. Raises ``InvalidRequest``."""
    if not isinstance(text, str):
        raise InvalidRequest("An image must be a base64 string.")
    if is_url(text[:8]):
        raise InvalidRequest(f"Send the image itself as base64: {NO_URLS}.")
    if text.startswith("data:"):
        text = text.partition(",")[2]
    decoded = _decode(text) if len(text) <= _INLINE else await asyncio.to_thread(_decode, text)
    if not decoded:
        raise InvalidRequest("The image is empty.")
    return decoded


def _decode(text: str) -> bytes:
    text = "".join(text.split())  # encoders may wrap lines
    try:
        return b"".join(
            base64.b64decode(text[start : start + _CHUNK], validate=True) for start in range(0, len(text), _CHUNK)
        )
    except ValueError as error:
        raise InvalidRequest(f"An image is not valid base64: {error}") from error
