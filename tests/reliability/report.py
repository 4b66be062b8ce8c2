"""The report of one run of the suite, as Markdown."""

import datetime
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.reliability.process import WORKERS

_FLAGS = ("avx2", "avx512f", "avx512_vnni", "amx_int8", "amx_bf16")

NOTES = {
    "Overload": "Poisson arrivals; latencies count from the time a request was due. Goals: at least 90 % of the"
    " capacity completed, rejections within 50 ms, /health within 100 ms. The tests assert 60, 40 and 10 % at"
    " 2, 5 and 10 times the capacity, the medians of the others (200 ms at 10 times), and that no connection is lost.",
    "After the overload": "Requests at 30 % of the capacity, before the overload and in the 2 s after it.",
    "SIGTERM under full load": "Half of the 32 clients leave when a response announces the end of the connection: none"
    " may lose a request. The other half reconnects until the port is closed.",
    "Blue/green update behind nginx": "Models that responded before the switch, after it, and while blue stopped. Sent"
    " again: on a new connection, because nginx closed the idle one. Reload: until its old workers have exited.",
}

Row = Sequence[object]


class Figures:
    """The figures that the tests measured: rows of a table per section, and notes."""

    def __init__(self) -> None:
        self.sections: dict[str, list[Row]] = {}

    def add(self, section: str, *row: object) -> None:
        """Adds a row; the first row of a section is its header."""
        self.sections.setdefault(section, []).append(row)


def render(sections: Mapping[str, Sequence[Row]], outcomes: Mapping[str, str], *, long: bool, seconds: float) -> str:
    """The whole document."""
    day = datetime.datetime.now(datetime.UTC).date().isoformat()
    form = "`make reliability" + (f" WORKERS={WORKERS}" if WORKERS > 1 else "") + (" LONG=1`" if long else "`")
    lines = [
        "# Reliability",
        "",
        f"Written by {form} on {day}, in {seconds:.0f} s. Do not edit: the suite replaces this file.",
        f"The server has {WORKERS} worker process{'es' * (WORKERS > 1)}; the load generator shares its cores.",
        "",
        f"Machine: {_cpu()}.",
        "",
    ]
    for section, rows in sections.items():
        note = [NOTES[section], ""] if section in NOTES else []
        lines += [f"## {section}", "", *note, *_table(rows), ""]
    lines += ["## Tests", "", *_table([("test", "outcome"), *outcomes.items()]), ""]
    return "\n".join(lines)


def _table(rows: Sequence[Row]) -> list[str]:
    cells = [[_cell(value) for value in row] for row in rows]
    return [_line(cells[0]), _line(["---"] * len(cells[0])), *(_line(row) for row in cells[1:])]


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}"
    return str(value).replace("|", "\\|").replace("\n", " ")


def _cpu() -> str:
    text = Path("/proc/cpuinfo").read_text()
    fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    fields = {name.strip(): value.strip() for name, value in fields.items()}
    flags = [flag for flag in _FLAGS if flag in fields.get("flags", "").split()]
    cores = text.count("processor\t")
    return f"{fields.get('model name', platform.machine())}, {cores} cores, {', '.join(flags) or 'no vector flags'}"
