"""Types of the fixtures in conftest.py."""

from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

import httpx
from fastapi import FastAPI

Message = MutableMapping[str, Any]  # Any: as in ASGI
Receive = Callable[[], Awaitable[Message]]
Until = Callable[[Callable[[], object]], Awaitable[None]]


class Client(httpx.AsyncClient):
    """A client that knows the application it is connected to."""

    app: FastAPI


class Grey(Protocol):
    """Returns an encoded image that the fake engine classifies as ``level``."""

    def __call__(self, level: int, format: str = "PNG") -> bytes: ...  # noqa: A002 - Pillow's name


class MakeApp(Protocol):
    """Returns the application with the fake engine."""

    def __call__(self, **settings: Any) -> FastAPI: ...  # Any: settings of different types


class Connect(Protocol):
    """Starts an application, by default that of ``MakeApp``, and returns a client of it."""

    def __call__(
        self,
        app: FastAPI | None = None,
        **settings: Any,  # Any: settings of different types
    ) -> AbstractAsyncContextManager[Client]: ...


class Problem(Protocol):
    """Asserts that a response is a problem of RFC 9457 with a status and a type; returns its detail."""

    def __call__(self, response: httpx.Response, status: int, type: str) -> str: ...  # noqa: A002 - RFC 9457's name


class Call(Protocol):
    """Sends one ASGI request whose body comes from ``receive``; returns status, headers and body."""

    def __call__(
        self,
        app: FastAPI,
        receive: Receive,
        path: str = "/predict",
        headers: dict[str, str] | None = None,
        method: str = "POST",
    ) -> Awaitable[tuple[int, dict[str, str], bytes]]: ...
