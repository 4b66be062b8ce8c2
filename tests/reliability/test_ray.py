"""Two replicas of the service under Ray Serve, one of which is killed under load."""

import asyncio
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.constants import ROOT
from tests.reliability.load import RESET, connect, post
from tests.reliability.process import free_port, wait_until

PYTHON = ROOT / ".venv-ray" / "bin" / "python"
PHOTO = (ROOT / "examples" / "coffee.jpg").read_bytes()
CLIENTS = 4
TRIES = 5
START_S = 120

pytestmark = pytest.mark.skipif(not PYTHON.exists(), reason="Ray is not installed: make .venv-ray")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[int, int]]:
    """Ray with two replicas: its process id and its port."""
    port = free_port()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CONVNEXT_")}
    with (
        (tmp_path / "ray.log").open("wb") as log,
        subprocess.Popen(
            [PYTHON, "-m", "benchmarks.service.peers.ray_server", str(port), "2"],
            cwd=ROOT,
            env=environment | {"RAY_USAGE_STATS_ENABLED": "0"},
            stdout=subprocess.PIPE,
            stderr=log,
        ) as process,
    ):
        assert process.stdout is not None
        lines = iter(process.stdout.readline, b"")
        assert b"ready\n" in lines, (tmp_path / "ray.log").read_text()
        yield process.pid, port
        process.terminate()
        process.wait(60)


def test_ongoing_requests_follow_the_batch_size(tmp_path: Path) -> None:
    file = tmp_path / "ray.yml"
    command = [str(PYTHON.with_name("serve")), "build", "app.ray_serve:app", "--output-path", str(file)]
    environment = os.environ | {"CONVNEXT_MAX_BATCH_SIZE": "5", "CONVNEXT_CPU_THREADS": "3"}
    subprocess.run(command, cwd=ROOT, env=environment, timeout=60, check=True)
    [deployment] = yaml.safe_load(file.read_text())["applications"][0]["deployments"]
    assert deployment["max_ongoing_requests"] > deployment["autoscaling_config"]["target_ongoing_requests"] >= 5
    assert deployment["max_ongoing_requests"] % 5 == 0
    assert deployment["ray_actor_options"] == {"num_cpus": 3, "num_gpus": 0}


def replicas(root: int) -> set[int]:
    """The process ids of the replicas among the descendants of ``root``."""
    parents, found = {}, set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            status, title = (folder / "status").read_text(), (folder / "cmdline").read_bytes()
        except OSError:  # has ended
            continue
        pid = int(folder.name)
        parents[pid] = int(status.partition("PPid:")[2].split()[0])
        if title.startswith(b"ray::ServeReplica"):
            found.add(pid)

    def descends(pid: int) -> bool:
        return pid == root or (pid in parents and descends(parents[pid]))

    return {pid for pid in found if descends(pid)}


async def predict(port: int) -> list[int]:
    """The statuses of one prediction and its retries, each on a new connection, until one succeeds."""
    statuses: list[int] = []
    while len(statuses) < TRIES and 200 not in statuses:
        connection = await connect(port)
        statuses.append((await connection.ask(post(PHOTO))).status)
        connection.close()
    return statuses


@pytest.mark.timeout(300)
def test_a_killed_replica_loses_no_request_that_is_retried(server: tuple[int, int]) -> None:
    root, port = server
    before = replicas(root)
    assert len(before) == 2

    def kill_and_wait() -> None:
        os.kill(min(before), signal.SIGKILL)
        wait_until(lambda: len(replicas(root) - before) == 1, START_S)

    async def run() -> list[list[int]]:
        results: list[list[int]] = []
        stop = asyncio.Event()

        async def work() -> None:
            while not stop.is_set():
                results.append(await predict(port))

        workers = [asyncio.create_task(work()) for _ in range(CLIENTS)]
        wait = asyncio.create_task(asyncio.to_thread(kill_and_wait))
        try:
            await wait
        finally:
            stop.set()
        await asyncio.gather(*workers)
        return results

    results = asyncio.run(run())
    assert len(results) > CLIENTS
    assert [statuses for statuses in results if statuses[-1] != 200] == []
    # What fails, fails as a server error or a reset, which clients may retry.
    assert {status for statuses in results for status in statuses} <= {200, RESET, 500, 502, 503}
    assert min(before) not in replicas(root)
