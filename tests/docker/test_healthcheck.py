"""The container's health check against servers that are ready, not ready, silent or absent."""

import runpy
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.constants import ROOT

Serve = Callable[[int], str]

main: Callable[..., int] = runpy.run_path(str(ROOT / "docker" / "healthcheck.py"))["main"]


@pytest.fixture(autouse=True)
def _as_in_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONVNEXT_HOST", "0.0.0.0")


@pytest.fixture
def serve() -> Iterator[Serve]:
    """``serve(status)`` starts a server whose /health responds with a status; returns its port."""
    servers: list[ThreadingHTTPServer] = []

    def start(status: int) -> str:
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
        return str(server.server_port)

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1)])
def test_reports_whether_the_service_is_ready(
    status: int, code: int, serve: Serve, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CONVNEXT_PORT", serve(status))
    assert main() == code
    assert '{"status":"ready"}' in capsys.readouterr().out


def test_fails_if_nothing_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        monkeypatch.setenv("CONVNEXT_PORT", str(bound.getsockname()[1]))
        assert main() == 1


def test_fails_if_the_response_does_not_arrive_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("CONVNEXT_PORT", str(silent.getsockname()[1]))
        assert main(timeout_s=0.05) == 1


def test_ignores_proxy_settings(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("CONVNEXT_PORT", serve(200))
    assert main() == 0


def test_empty_variables_count_as_not_set_and_the_port_is_that_of_the_platform(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONVNEXT_HOST", "")
    monkeypatch.setenv("CONVNEXT_PORT", "")
    monkeypatch.setenv("AIP_HTTP_PORT", serve(200))
    assert main() == 0
