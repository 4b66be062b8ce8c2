"""Injected faults: every waiting request gets a response, and health, metrics and log report the fault."""

import asyncio
import os
import resource
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.constants import WAIT_S
from tests.reliability.conftest import Start
from tests.reliability.images import gray
from tests.reliability.load import RESET, Response, connect, post
from tests.reliability.process import FAKE, SERVICE, WORKERS, ServerProcess, free_port, wait_until
from tests.reliability.report import Figures

# tests/app/http/test_workers.py has the faults of workers.
pytestmark = pytest.mark.skipif(WORKERS > 1, reason="the faults are injected into one process")

SECTION = "Fault injection"
REQUEST = post(gray(7), "image/png")


@pytest.fixture(scope="module", autouse=True)
def _header(figures: Figures) -> None:
    figures.add(SECTION, "fault", "responses", "recovery")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server for the faults after which the service recovers."""
    log_path = tmp_path_factory.mktemp("faults") / "log"
    with ServerProcess(log_path, *FAKE, port=0, decode_threads=2, decode_timeout_s=0.5, request_timeout_s=2) as process:
        yield process.wait_until_ready()


async def predict(port: int, count: int, request: bytes = REQUEST) -> list[Response]:
    """Responses to ``count`` concurrent requests, each on a connection of its own."""
    connections = [await connect(port) for _ in range(count)]
    responses = await asyncio.gather(*(connection.ask(request) for connection in connections))
    for connection in connections:
        connection.close()
    return responses


def statuses(server: ServerProcess, count: int = 1) -> list[int]:
    """Statuses of ``count`` concurrent predictions."""
    return sorted(response.status for response in asyncio.run(predict(server.port, count)))


def health(server: ServerProcess) -> tuple[int, int]:
    """Readiness and liveness."""
    return server.status("/health/ready"), server.status("/health/live")


def test_one_engine_exception_fails_one_batch_and_nothing_else(server: ServerProcess, figures: Figures) -> None:
    rejected = server.metric('convnext_rejected_total{reason="unavailable"}')
    logged = server.log().count("batch of 1 failed")
    server.command("fail 1")
    found = [*statuses(server), *statuses(server)]
    assert found == [503, 200]
    assert health(server) == (200, 200)
    assert server.metric('convnext_rejected_total{reason="unavailable"}') == rejected + 1
    assert server.log().count("batch of 1 failed") == logged + 1
    figures.add(SECTION, "engine exception once", "503, then 200", "immediate")


def test_running_out_of_memory_once_fails_one_batch(server: ServerProcess, figures: Figures) -> None:
    server.command("oom")
    assert [*statuses(server), *statuses(server)] == [503, 200]
    assert health(server) == (200, 200)
    assert server.log().count("MemoryError: injected") == 1
    figures.add(SECTION, "out of memory once", "503, then 200", "immediate")


def test_uploads_for_which_there_is_no_memory_fail_alone(server: ServerProcess, figures: Figures) -> None:
    upload = post(bytes(15_000_000), "image/png")
    before = resource.prlimit(server.popen.pid, resource.RLIMIT_DATA)
    resource.prlimit(server.popen.pid, resource.RLIMIT_DATA, (1, before[1]))
    found = {response.status for response in asyncio.run(predict(server.port, 4, upload))}
    resource.prlimit(server.popen.pid, resource.RLIMIT_DATA, before)
    assert found <= {RESET, 503}
    assert statuses(server) == [200]
    assert health(server) == (200, 200)
    figures.add(SECTION, "no memory for uploads", "503 or closed, then 200", "immediate")


def test_three_engine_exceptions_fail_readiness_until_the_probe_succeeds(
    server: ServerProcess, figures: Figures
) -> None:
    server.command("fail 4")  # the fourth meets the first probe
    found = [status for _ in range(3) for status in statuses(server)]
    assert found == [503, 503, 503]
    assert health(server) == (503, 200)
    assert server.json("/health")["status"] == "failing"
    recovery_s = wait_until(lambda: server.status("/health/ready") == 200, WAIT_S)
    assert statuses(server) == [200]
    figures.add(SECTION, "three engine exceptions", "503 each", f"ready after {recovery_s:.1f} s")


def test_ten_engine_exceptions_end_the_process(start: Start, figures: Figures) -> None:
    server = start(*FAKE)
    server.command("fail 100")
    for _ in range(3):
        assert statuses(server) == [503]
    failed_s = wait_until(lambda: server.status("/health/live") == 503, WAIT_S)
    assert server.json("/health")["status"] == "failed"
    assert server.popen.wait(WAIT_S) == 1
    outcome = f"liveness fails after {failed_s:.1f} s, then exits with 1"
    figures.add(SECTION, "ten engine exceptions", "503 each", outcome)


def test_a_hanging_batch_times_out_and_ends_the_process(start: Start, figures: Figures) -> None:
    server = start(*FAKE, request_timeout_s=2)
    server.command("hang")
    assert statuses(server, 12) == [504] * 12
    failed_s = wait_until(lambda: server.status("/health/live") == 503, 45)
    assert statuses(server) == [503]
    assert server.popen.wait(WAIT_S) == 1
    outcome = f"liveness fails after {failed_s:.0f} s, then exits with 1"
    figures.add(SECTION, "hanging batch", "504 at the deadline", outcome)


def test_stuck_decoders_get_a_422_and_end_the_process(start: Start, figures: Figures) -> None:
    server = start(*FAKE, decode_threads=2, decode_timeout_s=0.5, request_timeout_s=2)
    server.command("stick")
    assert statuses(server, 2) == [422, 422]
    wait_until(lambda: health(server) == (503, 200), WAIT_S)
    dead_s = wait_until(lambda: health(server) == (503, 503), WAIT_S)
    assert server.popen.wait(WAIT_S) == 1
    outcome = f"liveness fails after {dead_s:.1f} s, then exits with 1"
    figures.add(SECTION, "every decoder stuck", "422 after the decode timeout", outcome)


def test_decoders_that_were_stuck_serve_again(server: ServerProcess, figures: Figures) -> None:
    server.command("stick")
    assert statuses(server, 2) == [422, 422]
    wait_until(lambda: health(server) == (503, 200), WAIT_S)
    server.command("release")
    recovery_s = wait_until(lambda: health(server) == (200, 200), WAIT_S)
    assert statuses(server) == [200]
    figures.add(SECTION, "every decoder stuck for a while", "422", f"ready {recovery_s:.1f} s after they are free")


def test_a_stuck_decoder_does_not_prevent_the_exit(start: Start, figures: Figures) -> None:
    server = start(*FAKE, decode_threads=1, request_timeout_s=5, decode_timeout_s=1, shutdown_grace_s=2)
    server.command("stick")
    assert statuses(server) == [422]
    started_at = time.monotonic()
    assert server.terminate(WAIT_S) == 0
    figures.add(SECTION, "stuck decoder at SIGTERM", "422", f"exits with 0 after {time.monotonic() - started_at:.1f} s")


def test_a_suspended_process_continues_with_the_requests_that_arrived(server: ServerProcess, figures: Figures) -> None:

    async def suspend() -> list[Response]:
        connections = [await connect(server.port) for _ in range(8)]
        await asyncio.gather(*(connection.ask(REQUEST) for connection in connections))
        server.popen.send_signal(signal.SIGSTOP)
        waiting = [asyncio.create_task(connection.ask(REQUEST)) for connection in connections]
        await asyncio.wait(waiting, timeout=3)
        server.popen.send_signal(signal.SIGCONT)
        return await asyncio.gather(*waiting)

    assert [response.status for response in asyncio.run(suspend())] == [200] * 8
    assert health(server) == (200, 200)
    figures.add(SECTION, "SIGSTOP for 3 s, SIGCONT", "200 each", "immediate")


def test_a_killed_process_can_be_restarted(start: Start, figures: Figures) -> None:
    server = start(*FAKE)
    server.popen.kill()
    assert server.popen.wait(WAIT_S) == -signal.SIGKILL
    started_at = time.monotonic()
    assert statuses(start(*FAKE)) == [200]
    figures.add(SECTION, "SIGKILL and restart", "200", f"{time.monotonic() - started_at:.1f} s with the fake engine")


def test_a_corrupt_weights_file_ends_with_1_and_names_the_file(tmp_path: Path, figures: Figures) -> None:
    weights = tmp_path / "corrupt.safetensors"
    embedded = next(Path("model/pretrained").glob("*.safetensors")).read_bytes()
    weights.write_bytes(embedded[: len(embedded) // 2])
    with ServerProcess(tmp_path / "log", *SERVICE, model=weights) as server:
        assert server.popen.wait(90) == 1
        last_line = server.log().strip().splitlines()[-1]
    assert str(weights) in last_line
    assert "Traceback" not in server.log()
    figures.add(SECTION, "truncated weights file", "none", "exits with 1; the last line names the file")


def test_a_reader_of_stderr_that_stops_reading_stops_nothing(tmp_path: Path, figures: Figures) -> None:
    port = free_port()
    read, write = os.pipe()
    with ServerProcess(tmp_path / "log", *FAKE, stderr=write, port=port) as server:
        os.close(write)
        server.port = port
        server.wait_until_ready()
        assert asyncio.run(flood_log(port, 15_000)) == {404}  # more lines than the pipe and the queue hold
        dropped = server.metric("convnext_dropped_log_lines")
        assert dropped > 0
        assert statuses(server) == [200]
        assert health(server) == (200, 200)
        started_at = time.monotonic()
        assert server.terminate(WAIT_S) == 0
        seconds = time.monotonic() - started_at
    os.close(read)
    outcome = f"{dropped:.0f} lines dropped and counted; exits with 0 after {seconds:.1f} s"
    figures.add(SECTION, "nobody reads stderr", "all", outcome)


async def flood_log(port: int, count: int) -> set[int]:
    """Statuses of requests that cost little but write one line each."""
    request = b"GET /none HTTP/1.1\r\nHost: a\r\n\r\n"

    async def work() -> set[int]:
        connection = await connect(port)
        found = {(await connection.ask(request)).status for _ in range(count // 16)}
        connection.close()
        return found

    return set().union(*await asyncio.gather(*(work() for _ in range(16))))
