"""Starts and stops the servers that are compared, each as a process group of its own on 127.0.0.1."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import httpx

ROOT = Path(__file__).parents[2]
PEERS = ROOT / "benchmarks" / "service" / "peers"
START_S = 120
STOP_S = 30
LOG = "server.log"
BATCH_SIZE = 8
BATCH_DELAY_MS = 5
REQUEST_TIMEOUT_S = 30


@dataclass(frozen=True)
class Launch:
    """How to start one server, and how to send it an image."""

    command: list[str]
    path: str
    multipart: bool
    environment: dict[str, str] = field(default_factory=dict)


def this_project(weights: Path | str, port: int, _folder: Path, *, multipart: bool = True) -> Launch:
    command = [sys.executable, "-m", "app", "serve", "--port", str(port)]
    return Launch(command, "/predict", multipart, {"CONVNEXT_MODEL": str(weights), "CONVNEXT_LOG_LEVEL": "warning"})


def ray(weights: Path, port: int, _folder: Path) -> Launch:
    command = [str(_environment("ray") / "bin" / "python"), "-m", "benchmarks.service.peers.ray_server", str(port), "1"]
    return Launch(command, "/predict", True, {"CONVNEXT_MODEL": str(weights), "CONVNEXT_CPU_THREADS": "2"})


def plain_app(_weights: Path, port: int, _folder: Path) -> Launch:
    options = f"--workers 2 --no-access-log --log-level warning --port {port}".split()
    return Launch(
        [sys.executable, "-m", "uvicorn", "benchmarks.service.peers.plain_app:app", *options], "/predict", True
    )


def mosec(_weights: Path, port: int, _folder: Path) -> Launch:
    options = f"--address 127.0.0.1 --port {port} --timeout {1000 * REQUEST_TIMEOUT_S} --log-level warning".split()
    python = str(_environment("mosec") / "bin" / "python")
    return Launch([python, str(PEERS / "mosec_app.py"), *options], "/inference", False)


def torchserve(_weights: Path, port: int, folder: Path) -> Launch:
    bin_folder = _environment("torchserve") / "bin"
    archive = f"--model-name classifier --version 1 --handler {PEERS / 'torchserve_handler.py'} --export-path {folder}"
    subprocess.run([bin_folder / "torch-model-archiver", *archive.split()], check=True)
    (folder / "config.properties").write_text(_torchserve_configuration(port))
    options = f"--start --foreground --ncs --model-store {folder} --ts-config config.properties".split()
    command = [str(bin_folder / "torchserve"), *options]
    return Launch(command, "/predictions/classifier", False, {"TEMP": str(folder)})


def _torchserve_configuration(port: int) -> str:
    model = {
        "defaultVersion": True,
        "marName": "classifier.mar",
        "minWorkers": 2,
        "maxWorkers": 2,
        "batchSize": BATCH_SIZE,
        "maxBatchDelay": BATCH_DELAY_MS,
        "responseTimeout": REQUEST_TIMEOUT_S,
    }
    lines = [
        f"inference_address=http://127.0.0.1:{port}",
        *(f"{name}_address=http://127.0.0.1:{free_port()}" for name in ("management", "metrics")),
        *(f"grpc_{name}_port={free_port()}" for name in ("inference", "management")),
        "disable_token_authorization=true",
        "disable_system_metrics=true",
        "load_models=classifier.mar",
        "models=" + json.dumps({"classifier": {"1": model}}),
    ]
    return "\n".join(lines)


SERVERS: dict[str, Callable[[Path, int, Path], Launch]] = {
    "this project": this_project,
    "this project (image)": partial(this_project, multipart=False),
    "ray": ray,
    "plain app": plain_app,
    "mosec": mosec,
    "torchserve": torchserve,
}


def _environment(name: str) -> Path:
    folder = ROOT / f".venv-{name}"
    if not folder.exists():
        raise FileNotFoundError(f"{folder}: run `make bench-peers`, or leave {name} out of --servers")
    return folder


def versions() -> dict[str, str]:
    """The peers' versions, from their virtual environments, and Java's."""
    found = {}
    for name in ("mosec", "ray", "torchserve"):
        for folder in ROOT.glob(f".venv-{name}/lib/python*/site-packages/{name}-*.dist-info"):
            found[name] = folder.name.removesuffix(".dist-info").removeprefix(f"{name}-")
    with contextlib.suppress(FileNotFoundError):
        java = subprocess.run(["java", "-version"], capture_output=True, text=True, check=True)
        found["java"] = java.stderr.splitlines()[0]
    return found


def python_path() -> str:
    """The folders that this process was given for modules, after this project's."""
    return os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@contextlib.contextmanager
def running(launch: Launch, port: int, image: bytes, folder: Path, start_s: float = START_S) -> Iterator[str]:
    """Runs a server in ``folder`` and returns its URL once it has classified ``image``, at most ``start_s`` later."""
    environment = os.environ | {"PYTHONPATH": python_path()} | launch.environment
    log = folder / LOG
    with log.open("wb") as output:
        process = subprocess.Popen(
            launch.command, cwd=folder, env=environment, stdout=output, stderr=output, start_new_session=True
        )
    url = f"http://127.0.0.1:{port}{launch.path}"
    try:
        body: dict[str, object] = {"files": {"file": image}} if launch.multipart else {"content": image}
        _wait_until_ready(process, url, body, log, time.monotonic() + start_s)
        yield url
    finally:
        _stop(process)


def wait_for_workers(folder: Path, count: int, deadline: float) -> str:
    """The log of this project's server in ``folder``, once ``count`` workers are ready, or at the deadline."""
    while True:
        log = (folder / LOG).read_text()
        if count == 1 or log.count("http.workers: ready") >= count or time.monotonic() > deadline:
            return log
        time.sleep(0.1)


def _wait_until_ready(
    process: subprocess.Popen[bytes], url: str, body: dict[str, object], log: Path, deadline: float
) -> None:
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(httpx.TransportError):
            if httpx.post(url, **body).status_code == 200:  # type: ignore[arg-type]  # content or files
                return
        time.sleep(0.2)
    raise RuntimeError(f"no prediction from {url}; the end of its log:\n{log.read_text()[-3000:]}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Ends the process group, and returns once none of it is alive."""
    deadline = time.monotonic() + STOP_S
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
        while time.monotonic() < deadline:
            process.poll()
            os.killpg(process.pid, 0)
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
