"""convnext-serve serve."""

import argparse
import os
import signal
import socket
import sys
from collections.abc import Callable
from functools import partial
from types import FrameType

from app.api.keys import ApiKeys
from app.cli.output import print_error
from app.http.server import Server, allow_connections, bind, serve
from app.http.workers import Worker, WorkerServer, supervise
from app.logs import QueuedHandler, configure_logging
from app.serving.telemetry import Telemetry
from app.settings import Settings
from model.errors import ModelError
from model.inference.cpu import available_cores

# The supervisor of several workers needs no torch, so what imports it is imported where it is used.


def run(settings: Settings, _options: argparse.Namespace) -> int:
    """Serves until a signal or a failure ends it; returns the exit code."""
    ApiKeys(path=settings.api_keys_file)  # an error now, not once the model is loaded
    logs = configure_logging(settings.log_format, settings.log_level, sys.stderr)
    try:
        listener = bind(settings.host, settings.port)
    except (OSError, socket.gaierror) as error:
        print_error(f"cannot listen on {settings.host}:{settings.port}: {error.strerror or error}")
        return 1
    with listener:
        if settings.workers > 1:
            return supervise(listener, settings.workers, partial(_work, settings), grace_s=settings.shutdown_grace_s)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, _end)
        return _serve(settings, listener, logs, Telemetry(tracing=settings.tracing))


def _end(number: int, _frame: FrameType | None) -> None:
    """Ends a start-up at once. An exception could be raised in a callback of a C++ library, which would abort."""
    os._exit(128 + number)


def _work(settings: Settings, worker: Worker, channel: socket.socket) -> None:
    """Runs in a worker, which exits with 1 if the model, the device or a file is not available."""
    logs = configure_logging(settings.log_format, settings.log_level, sys.stderr, worker.number)
    share = settings.share(worker.number, available_cores())
    telemetry = Telemetry(tracing=settings.tracing, worker=worker.number)
    try:
        _serve(share, channel, logs, telemetry, server_class=partial(WorkerServer, worker=worker))
    except (ModelError, OSError) as error:
        print_error(str(error))
        sys.exit(1)


def _serve(
    settings: Settings,
    listener: socket.socket,
    logs: QueuedHandler,
    telemetry: Telemetry,
    server_class: Callable[..., Server] = Server,
) -> int:
    from app.main import build_engine, create_app

    app = create_app(settings, build_engine(settings), telemetry)
    telemetry.watch_dropped_logs(lambda: logs.dropped)
    server = server_class(
        app,
        grace_s=settings.shutdown_grace_s,
        max_connections=allow_connections(settings.max_connections),
        keep_alive_s=settings.keep_alive_s,
        root_path=settings.root_path or "",
    )
    return serve(server, listener)
