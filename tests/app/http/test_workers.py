"""Several worker processes behind one port: real processes, which tests kill, hold and break."""

import os
import re
import signal
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest

from tests.app.http.server_process import COMMAND, PNG, Process, running, start_predict
from tests.app.http.worker_server import BREAK, HOLD, LOSE
from tests.app.types import Grey
from tests.constants import WAIT_S

MODEL = b"GET /model HTTP/1.1\r\nHost: localhost\r\n\r\n"
Serve = Callable[..., AbstractContextManager[Process]]


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    """The named pipe on which held batches wait."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    return path


@pytest.fixture
def temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the processes put temporary files."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    return folder


@pytest.fixture
def serve(pipe: Path, temporary_folder: Path) -> Serve:
    """``serve(workers, *what)`` runs ``worker_server``."""

    @contextmanager
    def start(workers: int = 2, *what: str) -> Iterator[Process]:
        with running("-m", "tests.app.http.worker_server", str(workers), "50", str(pipe), *what) as process:
            yield process

    return start


def wait_for_all(process: Process, workers: int = 2) -> str:
    """The URL of a service whose workers are all ready, in whatever order the log says so."""
    url, ready = "", 0
    while not url or ready < workers:
        found = process.wait_for(r'listening on (?P<url>http://[^\s"]+)|http.workers.*ready')
        url, ready = (found["url"], ready) if found["url"] else (url, ready + 1)
    return url


def group(path: Path) -> int:
    """The process group of ``/proc/PID/cmdline``; 0 if the process has ended."""
    try:
        return os.getpgid(int(path.parent.name))
    except ProcessLookupError:
        return 0


def metric(url: str, name: str) -> float:
    """A sample of a scrape on a connection of its own."""
    text = httpx.get(f"{url}/metrics", timeout=WAIT_S).text
    return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(name))


def wait_until(condition: Callable[[], object]) -> None:
    """Asks again and again; the test's timeout ends it."""
    while not condition():
        pass


def open_connections(url: str, count: int, stack: ExitStack) -> None:
    """Opens ``count`` connections at the same time, and sends a request on each."""

    target = httpx.URL(url)

    def connect(_: int) -> socket.socket:
        connection = socket.create_connection((target.host, target.port or 80), timeout=WAIT_S)
        connection.sendall(MODEL)
        assert connection.recv(100).startswith(b"HTTP/1.1 200")
        return connection

    with ThreadPoolExecutor(16) as pool:
        for connection in pool.map(connect, range(count)):
            stack.enter_context(connection)


@pytest.mark.parametrize("workers", [2, 4])
def test_connections_are_spread_evenly_and_metrics_added_up(serve: Serve, workers: int) -> None:
    with serve(workers) as process:
        url = wait_for_all(process, workers)
        for count in (16, 64, 16):
            with ExitStack() as stack:
                open_connections(url, count, stack)
                served = Counter(process.wait_for(r"\[worker (\d)\] app.access: GET /model")[1] for _ in range(count))
                assert max(served.values()) <= 1.5 * count / workers, served
                assert len(served) == workers
        requests = 'convnext_requests_total{route="/model",status="200"}'
        assert [metric(url, requests) for _ in range(2 * workers)] == [96] * 2 * workers
        assert metric(url, "convnext_info") == 1
        assert metric(url, 'convnext_request_seconds_count{route="/model"}') == 96
        assert metric(url, "process_resident_memory_bytes") > workers * 100e6
        assert metric(url, "process_start_time_seconds") > 1e9


def test_a_killed_worker_costs_its_own_requests_and_is_replaced(serve: Serve, grey: Grey, pipe: Path) -> None:
    with serve() as process, ThreadPoolExecutor() as pool:
        started = [process.wait_for(r"worker (\d) is process (\d+)") for _ in range(2)]
        pids = {match[1]: int(match[2]) for match in started}
        url = wait_for_all(process)
        held = start_predict(pool, url, grey(HOLD))
        victim = process.wait_for(r"worker (\d) holds")[1]
        other = start_predict(pool, url, grey(HOLD))
        assert process.wait_for(r"worker (\d) holds")[1] != victim
        os.kill(pids[victim], signal.SIGKILL)
        with pytest.raises(httpx.TransportError):
            held.result(WAIT_S)
        process.wait_for(f"worker {victim} ended by signal 9; it is replaced")
        process.wait_for(rf"\[worker {victim}\].* ready$")
        wait_until(lambda: metric(url, "convnext_images_in_service") == 1)
        pipe.write_text("")
        assert other.result(WAIT_S).status_code == 200
        assert metric(url, 'convnext_requests_total{route="/predict",status="200"}') == 1
        process.popen.send_signal(signal.SIGTERM)
        assert process.popen.wait(WAIT_S) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_all_workers(
    serve: Serve, grey: Grey, pipe: Path, temporary_folder: Path, number: signal.Signals
) -> None:
    with serve() as process, ThreadPoolExecutor() as pool:
        url = wait_for_all(process)
        assert list(temporary_folder.glob("convnext-metrics-*/*.db"))
        accepted = []
        for _ in range(2):
            accepted.append(start_predict(pool, url, grey(HOLD)))
            process.wait_for("holds")
        os.killpg(process.popen.pid, number)  # as a terminal or systemd does
        for _ in range(2):
            process.wait_for(r"\[worker \d\].*draining")
        assert httpx.get(f"{url}/health/ready", timeout=WAIT_S).json()["status"] == "draining"
        assert start_predict(pool, url, grey(1)).result(WAIT_S).json()["type"] == "unavailable"
        pipe.write_text("")
        assert [future.result(WAIT_S).status_code for future in accepted] == [200, 200]
        assert process.popen.wait(WAIT_S) == 0
        process.wait_for_end()
        assert not list(temporary_folder.glob("convnext-metrics-*"))


def test_a_second_signal_ends_everything_at_once(serve: Serve, grey: Grey) -> None:
    with serve() as process, ThreadPoolExecutor() as pool:
        url = wait_for_all(process)
        response = start_predict(pool, url, grey(HOLD))
        process.wait_for("holds")
        process.popen.send_signal(signal.SIGINT)
        process.wait_for("draining")
        process.popen.send_signal(signal.SIGINT)
        assert process.popen.wait(WAIT_S / 2) == 0
        process.wait_for_end()
        with pytest.raises(httpx.TransportError):
            response.result(WAIT_S)


def test_no_worker_outlives_the_supervisor(serve: Serve, grey: Grey, temporary_folder: Path) -> None:
    with serve() as process, ThreadPoolExecutor() as pool:
        url = wait_for_all(process)
        response = start_predict(pool, url, grey(HOLD))
        process.wait_for("holds")
        process.popen.kill()
        process.wait_for_end()
        assert response.exception(WAIT_S)
        assert not list(temporary_folder.glob("convnext-metrics-*"))


def test_the_port_opens_when_the_first_worker_is_ready(serve: Serve, grey: Grey) -> None:
    with serve(2, "held", "2") as process, ThreadPoolExecutor() as pool:
        url = process.wait_for(r"listening on (http://\S+)")[1]
        responses = [start_predict(pool, url, grey(level)) for level in range(4)]
        assert [response.result(WAIT_S).status_code for response in responses] == [200] * 4
        process.popen.send_signal(signal.SIGTERM)
        assert process.popen.wait(WAIT_S) == 0


def test_sigterm_before_any_worker_is_ready_ends_with_143(serve: Serve) -> None:
    with serve(2, "held") as process:
        process.wait_for("worker . is process")
        process.popen.send_signal(signal.SIGTERM)
        assert process.popen.wait(WAIT_S) == 143
        process.wait_for_end()


def test_a_failing_worker_is_ready_as_long_as_another_one_is(serve: Serve, grey: Grey) -> None:
    with serve() as process, ExitStack() as stack:
        url = wait_for_all(process)
        clients = [stack.enter_context(httpx.Client(base_url=url, timeout=WAIT_S)) for _ in range(2)]
        for client in clients:
            assert [client.get("/health/ready").status_code for client in clients] == [200, 200]
            for _ in range(3):
                assert client.post("/predict", content=grey(BREAK), headers=PNG).status_code == 503
        for client in clients:
            wait_until(lambda: client.get("/health/ready").json()["status"] == "failing")  # noqa: B023 - called here
            assert client.get("/health/live").status_code == 200


def test_a_worker_that_has_lost_its_device_is_replaced(serve: Serve, grey: Grey) -> None:
    with serve() as process:
        url = wait_for_all(process)
        assert httpx.post(f"{url}/predict", content=grey(LOSE), headers=PNG, timeout=WAIT_S).status_code == 503
        number = process.wait_for(r"\[worker (\d)\].*ending, to be replaced: .*injected")[1]
        process.wait_for(f"worker {number} ended with code 0; it is replaced")
        assert httpx.get(f"{url}/health/live", timeout=WAIT_S).status_code == 200
        assert httpx.post(f"{url}/predict", content=grey(3), headers=PNG, timeout=WAIT_S).status_code == 200
        process.wait_for(rf"\[worker {number}\].* ready$")


def test_workers_that_fail_again_and_again_end_the_service(serve: Serve) -> None:
    with serve(2, "killed") as process:
        process.wait_for("CRITICAL.*every worker has failed")
        assert process.popen.wait(WAIT_S) == 1


def test_a_worker_that_cannot_start_ends_the_service_with_its_error(tmp_path: Path, temporary_folder: Path) -> None:
    missing = tmp_path / "missing.safetensors"
    with running(str(COMMAND), "serve", "--port", "0", "--workers", "2", "--model", str(missing)) as process:
        process.wait_for(re.escape(str(missing)))
        assert process.popen.wait(WAIT_S) == 1
        process.wait_for_end()
    assert not list(temporary_folder.glob("convnext-metrics-*"))


def test_the_command_shows_no_keys_in_its_processes(
    tiny_path: Path, grey: Grey, temporary_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONVNEXT_API_KEYS", "not-for-ps")
    monkeypatch.setenv("CONVNEXT_WORKERS", "2")
    arguments = ["serve", "--port", "0", "--model", str(tiny_path), "--device", "cpu", "--max-batch-size", "1"]
    with running(str(COMMAND), *arguments, "--log-format", "json") as process:
        url = wait_for_all(process)
        keys = {"authorization": "Bearer not-for-ps"}
        assert httpx.post(f"{url}/predict", content=grey(1), headers=PNG, timeout=WAIT_S).status_code == 401
        response = httpx.post(f"{url}/predict", content=grey(1), headers=PNG | keys, timeout=WAIT_S)
        assert len(response.json()["predictions"]) == 5
        process.wait_for(r'"worker": ?[12]')
        own = process.popen.pid
        commands = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if group(path) == own]
        assert len(commands) >= 3
        assert not [command for command in commands if b"not-for-ps" in command]
        process.popen.send_signal(signal.SIGTERM)
        assert process.popen.wait(WAIT_S) == 0
