"""Options of the reliability suite, its server processes, and its report."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.reliability.process import ServerProcess
from tests.reliability.report import Figures, render

Start = Callable[..., ServerProcess]


class Recorder:
    """Collects figures and outcomes, and writes the report at the end."""

    def __init__(self, path: Path | None, *, long: bool) -> None:
        self.figures = Figures()
        self._path = path
        self._long = long
        self._outcomes: dict[str, str] = {}
        self._started_at = time.monotonic()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keeps the outcome of each test."""
        if report.when == "call" or not report.passed:
            reason = f": {report.longrepr[2]}" if isinstance(report.longrepr, tuple) else ""
            self._outcomes[report.nodeid.rpartition("::")[2]] = report.outcome + reason

    def pytest_sessionfinish(self) -> None:
        """Writes the report."""
        if self._path is not None:
            seconds = time.monotonic() - self._started_at
            text = render(self.figures.sections, self._outcomes, long=self._long, seconds=seconds)
            self._path.write_text(text)


_RECORDER = pytest.StashKey[Recorder]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds ``--long`` and ``--report``."""
    parser.addoption("--long", action="store_true", help="run the long form, which takes hours")
    parser.addoption("--report", type=Path, help="write the measured figures to this Markdown file")


def pytest_configure(config: pytest.Config) -> None:
    """Starts an empty report."""
    recorder = Recorder(config.getoption("--report"), long=bool(config.getoption("--long")))
    config.stash[_RECORDER] = recorder
    config.pluginmanager.register(recorder)


@pytest.fixture(scope="session")
def figures(pytestconfig: pytest.Config) -> Figures:
    """Where tests write what they measure."""
    return pytestconfig.stash[_RECORDER].figures


@pytest.fixture(scope="session")
def long(pytestconfig: pytest.Config) -> bool:
    """Whether the long form runs."""
    return bool(pytestconfig.getoption("--long"))


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """``start(*arguments, **settings)``: a server process that is ready and ends with the test."""
    with ExitStack() as stack:

        def run(*arguments: str, **settings: Any) -> ServerProcess:  # Any: passed on as it is
            log_path = tmp_path / f"server_{time.monotonic_ns()}.log"
            process = ServerProcess(log_path, *arguments, port=0, **settings)
            return stack.enter_context(process).wait_until_ready()

        yield run
