"""Prints the results as a table: ``python -m benchmarks.gpu.table``."""

import json
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent.parent / "results" / "gpu.json"
LOG_CHARACTERS = 2000

Values = Mapping[str, Any]  # Any: JSON


def engine_rows(values: Values) -> list[str]:
    """Images per second, and the engine's ratio to the best eager format and to torch.compile."""
    rows = ["| network, batch | eager | compiled | engine | × eager | × compiled |", "|---|---|---|---|---|---|"]
    for name, rates in values.items():
        if " batch " not in name or not isinstance(rates.get("engine"), list) or not rates["engine"]:
            continue
        engine = statistics.median(rates["engine"])
        eager = max(statistics.median(rates["eager"]), statistics.median(rates["eager channels last"]))
        compiled = values.get(f"{name} compiled", {}).get("rates")
        compiled_rate = statistics.median(compiled) if compiled else None
        cells = [name, f"{eager:,.0f}", f"{compiled_rate:,.0f}" if compiled_rate else "–", f"{engine:,.0f}"]
        cells += [f"{engine / eager:.2f}", f"{engine / compiled_rate:.2f}" if compiled_rate else "–"]
        rows.append(f"| {' | '.join(cells)} |")
    for name, value in values.items():
        if isinstance(value, str):
            rows.append(f"{name}: {value}")
        elif "engine" not in value:
            shown = {key: entry for key, entry in value.items() if key not in ("batch_seconds", "rates")}
            rows.append(f"{name}: {str(shown)[:600]}")
    return rows


def other_rows(values: Values) -> list[str]:
    """One line per result."""
    rows = []
    for name, value in values.items():
        if isinstance(value, dict) and "outcomes" in value:
            latency = value["outcomes"].get("200", {})
            value = f"{value['ok_per_s']:,.0f} requests/s, {latency}"
        elif isinstance(value, list):
            value = value[:2]
        rows.append(f"{name}: {str(value)[:500]}")
    return rows


def table(document: Values) -> str:
    """All steps of a run."""
    lines = []
    for name, step in document["steps"].items():
        lines.append(f"\n{name}: {step['status']}, {step['seconds']:.0f} s")
        values = step["results"]
        lines += engine_rows(values) if name == "engines" else other_rows(values)
        if step["status"] != "ok" or name == "tests":
            lines.append(step["log"][-LOG_CHARACTERS:])
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(json.loads(RESULTS.read_text())))
