"""The container's health check against servers that are ready, not ready, silent or absent."""

import importlib.util
import os
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType

import pytest

from app.platforms import platform_defaults

SCRIPT = Path(__file__).parents[2] / "docker" / "healthcheck.py"


@pytest.fixture
def healthcheck(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("healthcheck", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setenv("CONVNEXT_HOST", "0.0.0.0")
    return module


@pytest.fixture
def serve() -> Iterator[Callable[[int], int]]:
    """Starts a server whose /health responds with a status; returns its port."""
    servers: list[ThreadingHTTPServer] = []

    def start(status: int) -> int:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(status if self.path == "/health" else 404)
                self.end_headers()
                self.wfile.write(b'{"status":"ready"}')

            def log_message(self, *_arguments: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever).start()
        return server.server_port

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_succeeds_if_the_service_is_ready(
    healthcheck: ModuleType,
    serve: Callable[[int], int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("CONVNEXT_PORT", str(serve(200)))
    assert healthcheck.main() == 0
    assert '{"status":"ready"}' in capsys.readouterr().out


def test_fails_if_the_service_is_not_ready(
    healthcheck: ModuleType, serve: Callable[[int], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONVNEXT_PORT", str(serve(503)))
    assert healthcheck.main() == 1


def test_fails_if_nothing_listens(healthcheck: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        monkeypatch.setenv("CONVNEXT_PORT", str(bound.getsockname()[1]))
        assert healthcheck.main() == 1


def test_fails_if_the_response_does_not_arrive_in_time(
    healthcheck: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("CONVNEXT_PORT", str(silent.getsockname()[1]))
        monkeypatch.setattr(healthcheck, "TIMEOUT_S", 0.05)
        assert healthcheck.main() == 1


def test_ignores_proxy_settings(
    healthcheck: ModuleType, serve: Callable[[int], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("CONVNEXT_PORT", str(serve(200)))
    assert healthcheck.main() == 0


def test_empty_variables_count_as_not_set(healthcheck: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    requested: list[tuple[str, int]] = []

    class Connection:
        def __init__(self, host: str, port: int, timeout: float) -> None:
            requested.append((host, port))

        def request(self, _method: str, _path: str) -> None:
            raise ConnectionRefusedError

    monkeypatch.setattr("http.client.HTTPConnection", Connection)
    monkeypatch.setenv("CONVNEXT_HOST", "")
    monkeypatch.setenv("CONVNEXT_PORT", "")
    assert healthcheck.main() == 1
    assert requested == [("127.0.0.1", 8000)]


@pytest.mark.parametrize("platform", ["vertex", "sagemaker"])
def test_uses_the_port_of_the_platform(
    healthcheck: ModuleType,
    serve: Callable[[int], int],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    platform: str,
) -> None:
    port = str(serve(200))
    if platform == "vertex":
        monkeypatch.setenv("AIP_HTTP_PORT", port)
    else:
        monkeypatch.setattr(healthcheck, "SAGEMAKER_MODEL", str(tmp_path))
        monkeypatch.setenv("SAGEMAKER_BIND_TO_PORT", port)
    assert healthcheck.main() == 0
    defaults = platform_defaults(os.environ, tmp_path if platform == "sagemaker" else tmp_path / "absent")
    assert defaults["port"] == port
