"""Types of the fixtures in conftest.py."""

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

import httpx
from fastapi import FastAPI

Until = Callable[[Callable[[], object]], Awaitable[None]]
CheckProblem = Callable[[httpx.Response, int, str], str]


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
    ) -> AbstractAsyncContextManager[httpx.AsyncClient]: ...
