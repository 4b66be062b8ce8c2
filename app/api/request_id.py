"""The request id: the client's X-Request-ID if that is at most 128 printable ASCII characters, else a new one."""

import random
import re
from collections.abc import Iterable

_VALUE = re.compile(rb"[\x21-\x7e]{1,128}")


def find_request_id(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """The id of a request with these headers, as in an ASGI scope."""
    for name, value in headers:
        if name == b"x-request-id" and _VALUE.fullmatch(value):
            return str(value, "ascii")
    # Not a secret; the system's random numbers would release the interpreter lock, and wait for it again.
    return f"{random.getrandbits(128):032x}"
