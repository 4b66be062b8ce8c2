"""Server: uvicorn, with a drain between the signal and the shutdown."""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator

import uvicorn
from fastapi import FastAPI

from app.protocol import limited_to

logger = logging.getLogger(__name__)

_THREADS_END_S = 1.0


class Server(uvicorn.Server):
    """On SIGTERM or SIGINT, readiness fails at once while the port stays open; then what was accepted is answered.

    After that, or after ``grace_s`` seconds, it shuts down and ``run`` returns; a second signal does so at once.
    """

    def __init__(self, app: FastAPI, grace_s: float) -> None:
        config = uvicorn.Config(
            app,
            http=limited_to(app.state.request_timeout_s),
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=1,
        )
        super().__init__(config)
        self._app = app
        self._grace_s = grace_s
        self._draining: asyncio.Task[None] | None = None

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handles the signals in the loop; unlike the base class, does not raise them again, so the exit code is 0."""
        loop = asyncio.get_running_loop()
        numbers = (signal.SIGINT, signal.SIGTERM)
        for number in numbers:
            loop.add_signal_handler(number, self._on_signal, number)
        try:
            yield
        finally:
            for number in numbers:
                loop.remove_signal_handler(number)

    def _on_signal(self, number: signal.Signals) -> None:
        if self._draining is not None:
            self.should_exit = self.force_exit = True
            return
        logger.info("%s: draining", number.name)
        self._draining = asyncio.get_running_loop().create_task(self._drain())

    async def _drain(self) -> None:
        classifier = self._app.state.classifier
        if classifier is not None:
            await classifier.drain(self._grace_s)
        self.should_exit = True


def bind(host: str, port: int) -> socket.socket:
    """A socket on an address, not yet listening; raises ``OSError`` where the address is not to be had."""
    family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except OSError:
        listener.close()
        raise
    return listener


def serve(app: FastAPI, listener: socket.socket, grace_s: float) -> None:
    """Serves ``app`` on a bound socket until a signal ends it."""
    host, port = listener.getsockname()[:2]
    logger.info("listening on http://%s:%d", f"[{host}]" if ":" in host else host, port)
    before = set(threading.enumerate())
    Server(app, grace_s).run(sockets=[listener])
    _end({thread for thread in threading.enumerate() if thread not in before and not thread.daemon})


def _end(threads: set[threading.Thread]) -> None:
    """Waits for threads that have been told to end, but not for ever, as the interpreter would when it exits."""
    deadline = time.monotonic() + _THREADS_END_S
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    stuck = sorted(thread.name for thread in threads if thread.is_alive())
    if stuck:
        logger.critical("the process ends though %s did not", ", ".join(stuck))
        logging.shutdown()
        os._exit(0)
