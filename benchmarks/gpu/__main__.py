"""Everything to be known about a GPU in one run of at most 540 s: ``python -m benchmarks.gpu``, or ``make gpu``.

    python -m benchmarks.gpu --device cpu --small --scale 2    # a rehearsal, without a GPU
    python -m benchmarks.gpu --only engines http     # some of the steps

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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.gpu.table import RESULTS, table

ROOT = Path(__file__).parents[2]
LIMIT_S = 540.0
MIN_STEP_S = 5.0
LOG_CHARACTERS = 12000
NO_TESTS = 5  # pytest's exit code if all are skipped
STOP_S = 3.0  # a step that is still running ends by itself before its limit, if it can


@dataclass(frozen=True)
class Step:
    """A module of this package, or a selection of tests."""

    name: str
    limit_s: float
    tests: tuple[str, ...] = ()


STEPS = (
    Step("ceilings", 20),
    Step("tests", 45, ("tests/gpu/test_engine_cuda.py", "tests/gpu/test_paths.py")),
    Step("faults", 25, ("tests/gpu/test_faults.py",)),
    Step("engines", 130),
    Step("http", 150),
    Step("tiles", 35),
    Step("profile", 35),
    Step("equality", 25),
    Step("decoding", 45),
)

Figures = dict[str, Any]  # Any: written to JSON as it is


def command_of(step: Step, output: Path, limit_s: float, options: argparse.Namespace) -> list[str]:
    """The command line of a step."""
    if step.tests:
        return [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-n", "0", "-q", "-rs", *step.tests]
    command = [sys.executable, "-m", f"benchmarks.gpu.{step.name}", str(output)]
    command += ["--device", options.device, "--seconds", f"{max(1.0, limit_s - STOP_S):.0f}"]
    command += ["--small"] if options.small else []
    return command + (["--photos", str(options.photos)] if options.photos else [])


def run(step: Step, limit_s: float, options: argparse.Namespace) -> Figures:
    """Runs a step; whatever it has found by its limit counts."""
    started = time.monotonic()
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
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
        return {
            "status": status,
            "seconds": time.monotonic() - started,
            "results": json.loads(output.read_text()) if output.exists() else {},
            "log": log.read_text(errors="replace")[-LOG_CHARACTERS:],
        }


def wait(process: subprocess.Popen[bytes], limit_s: float) -> str:
    """How the process ended; what is left of its process group at the limit is killed."""
    try:
        process.wait(limit_s)
    except subprocess.TimeoutExpired:
        return f"stopped after {limit_s:.0f} s"
    finally:
        code = process.poll()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if code == NO_TESTS:
        return "skipped"
    return "ok" if code == 0 else f"failed with exit code {code}"


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N, or cpu for a rehearsal")
    parser.add_argument("--small", action="store_true", help="small networks and few runs")
    parser.add_argument("--only", nargs="+", choices=[step.name for step in STEPS], metavar="STEP", help="some steps")
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
    for step in STEPS:
        limit_s = min(options.scale * step.limit_s, deadline - time.monotonic())
        if (options.only and step.name not in options.only) or limit_s < MIN_STEP_S:
            continue
        print(f"{step.name}, at most {limit_s:.0f} s", flush=True)
        document["steps"][step.name] = run(step, limit_s, options)
        output.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    print(table(document))
    print(f"\nresults in {output}")
    sys.exit(any(step["status"] not in ("ok", "skipped") for step in document["steps"].values()))


if __name__ == "__main__":
    main()
