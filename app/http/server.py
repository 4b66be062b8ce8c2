"""Server: uvicorn, with a drain between the signal and the shutdown."""

import asyncio
import contextlib
import errno
import gc
import logging
import os
import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import cast

import uvicorn
from fastapi import FastAPI

from app.api.context import AppContext
from app.http.connections import ConnectionLimit, ConnectionMonitor, HttpProtocol

logger = logging.getLogger(__name__)

_THREAD_TIMEOUT_S = 1.0
_SWITCH_INTERVAL_S = 0.0005  # the default of 5 ms keeps the event loop waiting for decode threads, and these for it
_LINGER_S = 1.0
BACKLOG = 2048  # connections, as uvicorn has it
RETRY_S = 0.05  # after which a connection is accepted that could not be accepted
OUT_OF_RESOURCES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_MIN_ACCEPTED, _MAX_ACCEPTED = 8, 100  # connections in one round of the event loop
_FAILED_TICKS = 20  # of 0.1 s; a process that was suspended seems to hang until its batch ends
_OTHER_FILES = 200  # file descriptors for everything that is not a connection


class Server(uvicorn.Server):
    """Drains on SIGTERM or SIGINT: readiness fails at once, the port stays open, accepted requests are completed.

    After that, or after ``grace_s`` seconds, it shuts down and ``run`` returns; a second signal does so at once, and so
    does a failure that only a restart can repair, such as a lost device: ``exit_code`` is 1 then.
    """

    def __init__(
        self, app: FastAPI, *, grace_s: float, max_connections: int, keep_alive_s: int, root_path: str = ""
    ) -> None:
        context: AppContext = app.state.context
        limit = ConnectionLimit(max_connections, context.telemetry.on_closed_connection)
        config = uvicorn.Config(
            app,
            http=cast(type[HttpProtocol], partial(HttpProtocol, limit=limit)),
            timeout_keep_alive=keep_alive_s,
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            root_path=root_path,
            timeout_graceful_shutdown=1,
        )
        super().__init__(config)
        self.context = context
        self._limit = limit
        self._max_connections = max_connections
        self._grace_s = grace_s
        self._drain_task: asyncio.Task[None] | None = None
        self._accepting: set[asyncio.Task[object]] = set()
        self.exit_code = 0
        self._failed_ticks = 0

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Starts the application, then takes connections from ``sockets``."""
        await super().startup(sockets=[])
        if not self.should_exit:  # because of a signal
            for source in sockets or ():
                self.open(source)

    def open(self, source: socket.socket) -> None:
        """Listens on a bound socket.

        uvloop accepts one connection in each round of its loop, which lasts 0.1 s under overload.
        """
        source.setblocking(False)
        source.listen(BACKLOG)
        self._watch(source)
        log_address(source)

    def _watch(self, source: socket.socket) -> None:
        if source.fileno() >= 0:  # it is not closed
            asyncio.get_running_loop().add_reader(source, self._accept_waiting, source)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accepts nothing more, and closes the connections."""
        for source in sockets or ():
            asyncio.get_running_loop().remove_reader(source)
        await super().shutdown(sockets)

    def _accept_waiting(self, source: socket.socket) -> None:
        for _ in range(self.acceptable):
            try:
                connection, _ = source.accept()
            except OSError as error:
                if error.errno in OUT_OF_RESOURCES:  # until a connection is closed
                    asyncio.get_running_loop().remove_reader(source)
                    asyncio.get_running_loop().call_later(RETRY_S, self._watch, source)
                return
            self.accept(connection)

    def accept(self, connection: socket.socket) -> None:
        """Serves a connection, as ``uvicorn.Server.startup`` does with those of its own sockets."""
        loop = asyncio.get_running_loop()
        connection.setblocking(False)
        make_protocol = cast(Callable[..., HttpProtocol], self.config.http_protocol_class)  # see __init__
        protocol = partial(
            make_protocol,
            config=self.config,
            server_state=self.server_state,
            app_state=self.lifespan.state,
            _loop=loop,
        )
        task: asyncio.Task[object] = loop.create_task(loop.connect_accepted_socket(protocol, connection))
        self._accepting.add(task)
        task.add_done_callback(self._accepting.discard)

    @property
    def acceptable(self) -> int:
        """How many connections are accepted in one round of the event loop.

        Above the limit they are few, so that each is read once before newer ones cause it to be closed.
        """
        return max(_MIN_ACCEPTED, min(_MAX_ACCEPTED, self._max_connections - self.open_connections))

    @property
    def open_connections(self) -> int:
        """How many connections there are."""
        return len(self.server_state.connections) + len(self._accepting)

    async def on_tick(self, counter: int) -> bool:
        """Called every 0.1 s; returns whether the server ends."""
        service = self.context.service
        failed = service is not None and service.status == "failed" and not self.draining
        self._failed_ticks = self._failed_ticks + 1 if failed else 0
        if service is not None and self._failed_ticks > _FAILED_TICKS:
            logger.critical("ending, to be replaced: %s", service.failure)
            self.exit_code = 1
            return True
        return await super().on_tick(counter)

    async def main_loop(self) -> None:
        """Serves until the drain has ended."""
        connections = cast(set[HttpProtocol], self.server_state.connections)  # all are of the class in the config
        monitor = ConnectionMonitor(connections, self._limit, self.context.request_timeout_s)
        task = asyncio.create_task(monitor.run(), name="connection monitor")
        try:
            await super().main_loop()
        finally:
            task.cancel()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handles signals in the event loop; unlike uvicorn, does not raise them again, so the exit code is 0."""
        loop = asyncio.get_running_loop()
        numbers = (signal.SIGINT, signal.SIGTERM)
        for number in numbers:
            loop.add_signal_handler(number, self.on_signal, number)
        try:
            yield
        finally:
            for number in numbers:
                loop.remove_signal_handler(number)

    @property
    def draining(self) -> bool:
        """Whether a signal has started the drain."""
        return self._drain_task is not None

    def on_signal(self, number: signal.Signals) -> None:
        """Starts the drain, or ends it if it has started."""
        if self.draining:
            self.should_exit = self.force_exit = True
            return
        logger.info("%s: draining", number.name)
        self._drain_task = asyncio.get_running_loop().create_task(self._drain())

    async def _drain(self) -> None:
        if self.context.service is not None:
            await self.context.service.drain(self._grace_s)
        await self._linger()
        self.should_exit = True

    async def _linger(self) -> None:
        """Lets clients that keep connections open learn from a last response (``Connection: close``) to leave."""
        deadline = time.monotonic() + _LINGER_S
        while self.open_connections and time.monotonic() < deadline:  # noqa: ASYNC110 - uvicorn has no event
            await asyncio.sleep(0.02)


def bind(host: str, port: int) -> socket.socket:
    """A socket bound to an address, not yet listening. Raises ``OSError`` if the address is not available."""
    family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except OSError:
        listener.close()
        raise
    return listener


def log_address(listener: socket.socket) -> None:
    """Logs where the service can be reached."""
    host, port = listener.getsockname()[:2]
    logger.info("listening on http://%s:%d", f"[{host}]" if ":" in host else host, port)


def serve(server: Server, listener: socket.socket) -> int:
    """Serves on a bound socket until a signal or a failure ends it; returns the exit code."""
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    gc.collect()
    gc.freeze()  # what has been loaded stays, and a collection of all of it would stop every request for 0.1 s
    before = set(threading.enumerate())
    server.run(sockets=[listener])
    gc.unfreeze()  # otherwise libraries that torch loads report leaks at exit
    _join({thread for thread in threading.enumerate() if thread not in before and not thread.daemon}, server.exit_code)
    return server.exit_code


def allow_connections(wanted: int) -> int:
    """Raises the limit of open files for ``wanted`` connections; returns how many the system permits."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + _OTHER_FILES
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return wanted
    permitted = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (permitted, hard))
    if permitted < needed:
        wanted = max(1, permitted - _OTHER_FILES)
        logger.warning("max_connections lowered to %d: the limit of open files is %d", wanted, hard)
    return wanted


def _join(threads: set[threading.Thread], exit_code: int) -> None:
    """Waits for threads that have been told to stop, but not without limit, as the interpreter would at exit."""
    deadline = time.monotonic() + _THREAD_TIMEOUT_S
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    stuck = sorted(thread.name for thread in threads if thread.is_alive())
    if stuck:
        logger.critical("exiting although %s did not stop", ", ".join(stuck))
        logging.shutdown()
        os._exit(exit_code)
