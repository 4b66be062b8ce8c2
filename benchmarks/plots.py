"""Draws ``docs/benchmarks/results.png``, one panel per file of results: ``python -m benchmarks.plots``."""

import json
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.rounds import RESULTS

PICTURE = Path(__file__).parent.parent / "docs" / "benchmarks" / "results.png"

Result = Mapping[str, Any]  # Any: as read from JSON


def draw_rates(axes: Axes, figures: Mapping[str, Mapping[str, list[float]]]) -> None:
    """Each contender's median rate in groups, with a bar from minimum to maximum."""
    contenders = list(next(iter(figures.values())))
    width = 0.8 / len(contenders)
    for index, name in enumerate(contenders):
        rounds = [group[name] for group in figures.values()]
        medians = [statistics.median(values) for values in rounds]
        below = [median - min(values) for median, values in zip(medians, rounds, strict=True)]
        above = [max(values) - median for median, values in zip(medians, rounds, strict=True)]
        positions = [group + width * index for group in range(len(rounds))]
        axes.bar(positions, medians, width, yerr=[below, above], label=name)
    axes.set_xticks([group + 0.4 - width / 2 for group in range(len(figures))], list(figures))
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))


def draw_engine(axes: Axes, result: Result) -> None:
    """Images/s by batch size."""
    axes.set(xlabel="batch size", ylabel="images/s")
    draw_rates(axes, result["figures"])


def draw_preprocess(axes: Axes, result: Result) -> None:
    """Images/s by image size."""
    axes.set(xlabel="image size", ylabel="images/s on one core", yscale="log")
    draw_rates(axes, result["figures"]["rates"])


def draw_service(axes: Axes, result: Result) -> None:
    """Requests/s by number of connections."""
    servers, connections = result["figures"]["rounds"], result["figures"]["settings"]["connections"]
    axes.set(xlabel="connections", ylabel="requests/s")
    rates = {
        str(count): {name: [figures[str(count)]["ok_per_s"] for figures in rounds] for name, rounds in servers.items()}
        for count in connections
    }
    draw_rates(axes, rates)


DRAW = {"engine": draw_engine, "preprocess": draw_preprocess, "service": draw_service}


def draw_all(results: Mapping[str, Result], path: Path) -> None:
    """Writes a picture of the results, by name; the same results give the same file."""
    figure = Figure(figsize=(9, 3 * len(results)), layout="constrained")
    panels = figure.subplots(len(results), squeeze=False)[:, 0]
    for axes, (name, result) in zip(panels, results.items(), strict=True):
        hardware = result["hardware"]
        axes.set_title(f"{name}: {hardware['cores']} cores, {hardware['cpu']}")
        axes.grid(axis="y", alpha=0.3)
        DRAW[name.partition("_")[0]](axes, result)
    figure.savefig(path, metadata={"Description": " ".join(results)})


def read_results() -> dict[str, Result]:
    """The results that can be drawn, by name."""
    paths = sorted(path for kind in DRAW for path in RESULTS.glob(f"{kind}*.json"))
    return {path.stem: json.loads(path.read_text()) for path in paths}


if __name__ == "__main__":
    draw_all(read_results(), PICTURE)
    print(PICTURE)
