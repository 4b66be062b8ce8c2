"""Options of the reliability suite, its server processes, and its report."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.reliability.process import ServerProcess
from tests.reliability.report import Figures, render

_FIGURES = pytest.StashKey[Figures]()
_OUTCOMES: dict[str, str] = {}  # by test; the hook that reports them knows no config
_STARTED_AT = pytest.StashKey[float]()

Start = Callable[..., ServerProcess]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds ``--long`` and ``--report``."""
    parser.addoption("--long", action="store_true", help="run the long form, which takes hours")
    parser.addoption("--report", type=Path, help="write the measured figures to this Markdown file")


def pytest_configure(config: pytest.Config) -> None:
    """Starts an empty report."""
    config.stash[_FIGURES] = Figures()
    config.stash[_STARTED_AT] = time.monotonic()


@pytest.fixture(scope="session")
def figures(pytestconfig: pytest.Config) -> Figures:
    """Where tests write what they measure."""
    return pytestconfig.stash[_FIGURES]


@pytest.fixture(scope="session")
def long(pytestconfig: pytest.Config) -> bool:
    """Whether the long form runs."""
    return bool(pytestconfig.getoption("--long"))


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """``start(*arguments, **settings)``: a server process that is ready and ends with the test."""
    with ExitStack() as stack:

        def run(*arguments: str, **settings: object) -> ServerProcess:
            log_path = tmp_path / f"server_{time.monotonic_ns()}.log"
            process = ServerProcess(log_path, *arguments, port=0, **settings)
            return stack.enter_context(process).wait_until_ready()

        yield run


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Keeps the outcome of each test for the report."""
    if report.when == "call" or not report.passed:
        reason = f": {report.longrepr[2]}" if isinstance(report.longrepr, tuple) else ""
        _OUTCOMES[report.nodeid.rpartition("::")[2]] = report.outcome + reason


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Writes the report."""
    config = session.config
    path: Path | None = config.getoption("--report")
    if path is not None:
        seconds = time.monotonic() - config.stash[_STARTED_AT]
        sections = config.stash[_FIGURES].sections
        path.write_text(render(sections, _OUTCOMES, long=bool(config.getoption("--long")), seconds=seconds))
