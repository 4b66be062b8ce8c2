"""The GPU benchmark keeps what a step has found, however it ends, and its table has the ratios."""

import argparse
import sys
from pathlib import Path

import pytest

from benchmarks.gpu import __main__ as runner
from benchmarks.gpu.table import table

OPTIONS = argparse.Namespace(device="cpu", small=True, photos=None)
FIRST = "import sys, pathlib; pathlib.Path(sys.argv[1]).write_text('{\"rate\": 5}')"


@pytest.mark.parametrize(
    ("then", "status"),
    [
        ("", "ok"),
        ("; sys.exit(3)", "failed with exit code 3"),
        ("; import os; os.abort()", "failed with exit code -6"),
        ("; import threading; threading.Event().wait()", "stopped after 2 s"),
    ],
)
def test_results_outlive_a_step_that_fails_or_hangs(monkeypatch: pytest.MonkeyPatch, then: str, status: str) -> None:
    def command(step: runner.Step, output: Path, limit_s: float, options: argparse.Namespace) -> list[str]:
        return [sys.executable, "-c", FIRST + then, str(output)]

    monkeypatch.setattr(runner, "command_of", command)
    done = runner.run(runner.Step("engines", 2), 2.0, OPTIONS)
    assert done["status"] == status
    assert done["results"] == {"rate": 5}


def test_all_steps_fit_into_the_limit() -> None:
    assert sum(step.limit_s for step in runner.STEPS) <= runner.LIMIT_S


def test_the_table_has_ratios_to_the_faster_eager_format_and_to_compile() -> None:
    rates = {"engine": [300.0, 310.0, 290.0], "eager": [90.0], "eager channels last": [100.0]}
    values = {"tiny batch 8": rates, "tiny batch 8 compiled": {"rates": [200.0]}, "tiny batch 1": rates}
    step = {"status": "ok", "seconds": 1.0, "results": values, "log": ""}
    lines = table({"steps": {"engines": step}}).splitlines()
    assert "| tiny batch 8 | 100 | 200 | 300 | 3.00 | 1.50 |" in lines
    assert "| tiny batch 1 | 100 | – | 300 | 3.00 | – |" in lines
