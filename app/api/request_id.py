"""The request id: the client's X-Request-ID if that is at most 128 printable ASCII characters, else a new one."""

import random
import re
from collections.abc import Iterable

_VALUE = rb"([\x21-\x7e]{1,128})"
_HEADER_VALUE = re.compile(_VALUE)
_HEADER_LINE = re.compile(rb"\r\nx-request-id:[ \t]*" + _VALUE + rb"[ \t]*\r\n", re.IGNORECASE)


def find_request_id(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """The id of a request with these headers, as in an ASGI scope."""
    for name, value in headers:
        if name == b"x-request-id" and _HEADER_VALUE.fullmatch(value):
            return str(value, "ascii")
    return _new_id()


def search_request_id(headers: bytes) -> str:
    """The id of a request with these headers, as they are sent; each line ends with CR LF."""
    found = _HEADER_LINE.search(headers)
    return str(found[1], "ascii") if found else _new_id()


def _new_id() -> str:
    # Not a secret; the system's random numbers would release the interpreter lock, and wait for it again.
    return f"{random.getrandbits(128):032x}"
