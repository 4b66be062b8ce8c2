"""Prints a failure at once: a run that is stopped at its limit has no summary."""

from __future__ import annotations  # older versions of pytest lack a name

import pytest


class _FailuresAtOnce:
    def __init__(self, terminal: pytest.TerminalReporter) -> None:
        self._terminal = terminal

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and report.nodeid.startswith("tests/gpu/"):
            self._terminal.write_line(f"\n{report.nodeid}\n{report.longreprtext}")


@pytest.hookimpl(trylast=True)  # after the reporter's own
def pytest_configure(config: pytest.Config) -> None:
    terminal = config.pluginmanager.get_plugin("terminalreporter")
    if terminal is not None:  # not in xdist's workers
        config.pluginmanager.register(_FailuresAtOnce(terminal))
