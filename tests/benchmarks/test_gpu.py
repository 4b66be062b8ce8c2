"""The GPU benchmark keeps what a step has found, however it ends, and its table has the ratios."""

import argparse
import json
import sys
from pathlib import Path

import pytest

from benchmarks.gpu import __main__ as runner
from benchmarks.gpu.step import Results
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


def test_a_step_without_some_of_its_results_is_incomplete(monkeypatch: pytest.MonkeyPatch) -> None:
    write = """import sys, pathlib; pathlib.Path(sys.argv[1]).write_text('{"rate": 5, "workers": {"error": "late"}}')"""
    monkeypatch.setattr(runner, "command_of", lambda _, output, *others: [sys.executable, "-c", write, str(output)])
    assert runner.run(runner.Step("http", 60), 60.0, OPTIONS)["status"] == "incomplete"


def test_a_result_is_what_it_was_when_it_was_added(tmp_path: Path) -> None:
    results = Results(tmp_path / "results.json")
    batch_seconds = {1: 0.5}
    results.add("engine", {"batch_seconds": batch_seconds})
    batch_seconds[1] = 0.75  # by a later batch
    results.add("latency ms", 3)
    written = json.loads((tmp_path / "results.json").read_text())
    assert written == {"engine": {"batch_seconds": {"1": 0.5}}, "latency ms": 3}


def test_a_step_can_stop_what_it_has_started_after_its_limit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stop = "import pathlib, sys, threading\ntry: threading.Event().wait()\nfinally: pathlib.Path(sys.argv[1]).touch()"
    command = [sys.executable, "-c", stop, str(tmp_path / "stopped")]
    monkeypatch.setattr(runner, "command_of", lambda *_: command)
    assert runner.run(runner.Step("http", 2), 2.0, OPTIONS)["status"] == "stopped after 2 s"
    assert (tmp_path / "stopped").exists()


def test_a_step_finds_the_modules_that_the_runner_was_given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "carried.py").touch()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(runner, "command_of", lambda *_: [sys.executable, "-c", "import carried, benchmarks"])
    assert runner.run(runner.Step("http", 60), 60.0, OPTIONS)["status"] == "ok"


def test_a_step_is_chosen_by_name_with_a_limit_or_without() -> None:
    assert runner.selected("http=80") == runner.Step("http", 80)
    assert runner.selected("http") in runner.STEPS
    with pytest.raises(argparse.ArgumentTypeError, match="engine"):
        runner.selected("engine")


def test_all_steps_fit_into_the_limit() -> None:
    assert sum(step.limit_s for step in runner.STEPS) <= runner.LIMIT_S


def test_the_table_has_ratios_to_the_faster_eager_format_and_to_compile() -> None:
    rates = {"engine": [300.0, 310.0, 290.0], "eager": [90.0], "eager channels last": [100.0]}
    values = {"tiny batch 8": rates, "tiny batch 8 compiled": {"rates": [200.0]}, "tiny batch 1": rates}
    step = {"status": "ok", "seconds": 1.0, "results": values, "log": ""}
    lines = table({"steps": {"engines": step}}).splitlines()
    assert "| tiny batch 8 | 100 | 200 | 300 | 3.00 | 1.50 |" in lines
    assert "| tiny batch 1 | 100 | – | 300 | 3.00 | – |" in lines


def test_the_table_shows_what_failed_in_a_step() -> None:
    values = {"base failed": {"error": "no memory"}, "tiny batch 8 compiled": {"error": "no compiler"}}
    lines = table({"steps": {"engines": {"status": "ok", "seconds": 1.0, "results": values, "log": ""}}})
    assert "no memory" in lines
    assert "no compiler" in lines
