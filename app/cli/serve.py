"""convnext-serve serve."""

import argparse
import socket
import sys

from app.cli.output import print_error
from app.http.server import bind
from app.http.server import serve as run_server
from app.logs import configure_logging
from app.main import build_engine, create_app
from app.settings import Settings


def run(settings: Settings, _options: argparse.Namespace) -> int:
    """Serves until a signal ends it; returns 1 if the address is not available."""
    logs = configure_logging(settings.log_format, settings.log_level, sys.stderr)
    try:
        listener = bind(settings.host, settings.port)
    except (OSError, socket.gaierror) as error:
        print_error(f"cannot listen on {settings.host}:{settings.port}: {error.strerror or error}")
        return 1
    with listener:
        app = create_app(settings, build_engine(settings))
        app.state.context.telemetry.watch_dropped_logs(lambda: logs.dropped)
        run_server(
            app,
            listener,
            grace_s=settings.shutdown_grace_s,
            max_connections=settings.max_connections,
            keep_alive_s=settings.keep_alive_s,
            root_path=settings.root_path or "",
        )
    return 0
