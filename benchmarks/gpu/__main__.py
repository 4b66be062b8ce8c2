"""Everything to be known about a GPU in one run of at most 540 s: ``python -m benchmarks.gpu``, or ``make gpu``.

    python -m benchmarks.gpu --device cpu --small --scale 2    # a rehearsal, without a GPU
    python -m benchmarks.gpu --only engines http=80    # some of the steps, in this order, http for at most 80 s

Each step is a process with a limit of its own, so that a step that hangs or loses the device costs the others nothing.
benchmarks/results/gpu.json is written after each one; a rehearsal writes to gpu_rehearsal.json in a temporary folder.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.gpu.table import RESULTS, table
from benchmarks.service.servers import ROOT, python_path

LIMIT_S = 540.0
MIN_STEP_S = 5.0
LOG_CHARACTERS = 20000
NO_TESTS = 5  # pytest's exit code if all are skipped
STOP_S = 5.0  # a step that is still running ends by itself before its limit, if it can
INTERRUPTED_S = 4.0  # after the limit, for a step to stop what it has started


@dataclass(frozen=True)
class Step:
    """A module of this package, or a selection of tests."""

    name: str
    limit_s: float
    tests: tuple[str, ...] = ()


STEPS = (
    Step("ceilings", 30),
    Step("tests", 75, ("tests/gpu",)),
    Step("engines", 150),
    Step("http", 120),
    Step("slots", 30),
    Step("profile", 40),
    Step("tiles", 35),
    Step("equality", 30),
    Step("decoding", 30),
)

Figures = dict[str, Any]  # Any: written to JSON as it is


def command_of(step: Step, output: Path, limit_s: float, options: argparse.Namespace) -> list[str]:
    """The command line of a step."""
    if step.tests:  # a process for each file; one line per test, which remains if the step is stopped
        pytest = [
            sys.executable,
            "-m",
            "pytest",
            "-vv",
            "-ra",
            "-p",
            "no:cacheprovider",
            "-n",
            "4",
            "--dist",
            "loadfile",
        ]
        return [*pytest, "--tb", "short", "--session-timeout", f"{limit_s - STOP_S:.0f}", *step.tests]
    command = [sys.executable, "-m", f"benchmarks.gpu.{step.name}", str(output)]
    command += ["--device", options.device, "--seconds", f"{max(1.0, limit_s - STOP_S):.0f}"]
    command += ["--small"] if options.small else []
    return command + (["--photos", str(options.photos)] if options.photos else [])


def run(step: Step, limit_s: float, options: argparse.Namespace) -> Figures:
    """Runs a step; whatever it has found by its limit counts."""
    started = time.monotonic()
    environment = os.environ | {"PYTHONPATH": python_path(), "PYTHONUNBUFFERED": "1"}
    if step.name == "tiles" and options.device == "cpu":
        environment["TRITON_INTERPRET"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        output, log = Path(folder) / "results.json", Path(folder) / "log"
        with log.open("wb") as stream:
            process = subprocess.Popen(
                command_of(step, output, limit_s, options),
                cwd=ROOT,
                env=environment,
                stdout=stream,
                stderr=stream,
                start_new_session=True,
            )
            status = wait(process, limit_s)
        results: Figures = json.loads(output.read_text()) if output.exists() else {}
        if status == "ok" and any("error" in value for value in results.values() if isinstance(value, dict)):
            status = "incomplete"
        return {
            "status": status,
            "seconds": time.monotonic() - started,
            "results": results,
            "log": log.read_text(errors="replace")[-LOG_CHARACTERS:],
        }


def wait(process: subprocess.Popen[bytes], limit_s: float) -> str:
    """How the process ended. At the limit it is interrupted; what is left of its process group then is killed."""
    status = ""
    try:
        process.wait(limit_s)
    except subprocess.TimeoutExpired:
        status = f"stopped after {limit_s:.0f} s"
        process.send_signal(signal.SIGINT)  # so that it stops a server, or pytest prints what has failed
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(INTERRUPTED_S)
    finally:
        code = process.poll()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if code == NO_TESTS:
        return "skipped"
    return status or ("ok" if code == 0 else f"failed with exit code {code}")


def selected(name: str) -> Step:
    """The step NAME, or NAME=SECONDS with another limit."""
    name, _, limit_s = name.partition("=")
    step = next((step for step in STEPS if step.name == name), None)
    if step is None:
        raise argparse.ArgumentTypeError(f"{name!r} is not one of {', '.join(step.name for step in STEPS)}")
    return replace(step, limit_s=float(limit_s)) if limit_s else step


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N, or cpu for a rehearsal")
    parser.add_argument("--small", action="store_true", help="small networks and few runs")
    parser.add_argument("--only", nargs="+", type=selected, default=STEPS, metavar="STEP", help="some steps")
    parser.add_argument("--photos", type=Path, help="folder of photos for the comparison of precisions")
    parser.add_argument("--scale", type=float, default=1.0, help="factor of all limits, for slow machines")
    parser.add_argument("--limit", type=float, default=LIMIT_S, help="of the whole run, in seconds")
    parser.add_argument("--output", type=Path, help="where the results go")
    return parser.parse_args()


def main() -> None:
    options = parse_options()
    default = Path(tempfile.gettempdir()) / "gpu_rehearsal.json" if options.small else RESULTS
    output: Path = options.output or default
    deadline = time.monotonic() + options.scale * options.limit
    document: Figures = {"device": options.device, "small": options.small, "steps": {}}
    for step in options.only:
        limit_s = min(options.scale * step.limit_s, deadline - time.monotonic())
        if limit_s < MIN_STEP_S:
            continue
        print(f"{step.name}, at most {limit_s:.0f} s", flush=True)
        document["steps"][step.name] = run(step, limit_s, options)
        output.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
        print(table({"steps": {step.name: document["steps"][step.name]}}), flush=True)
    print(f"\nresults in {output}")
    sys.exit(any(step["status"] not in ("ok", "skipped") for step in document["steps"].values()))


if __name__ == "__main__":
    main()
