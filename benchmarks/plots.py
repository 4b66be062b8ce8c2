"""Pictures of the kept results in docs/benchmarks: ``python -m benchmarks.plots``."""

import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.rounds import RESULTS

PICTURES = Path(__file__).parent.parent / "docs" / "benchmarks"


@contextmanager
def chart(path: Path, title: str, x: str, y: str) -> Iterator[Axes]:
    """Axes to draw on, written to ``path`` at the end of the block; the same lines give the same file."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    axes.set(title=title, xlabel=x, ylabel=y)
    yield axes
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    with mpl.rc_context({"svg.hashsalt": path.name}):
        figure.savefig(path, metadata={"Date": None})


def draw_rates(axes: Axes, figures: Mapping[str, Mapping[str, list[float]]], positions: list[float]) -> None:
    """Each contender's median rate over the positions, with a bar from the least to the most."""
    for name in next(iter(figures.values())):
        rounds = [one[name] for one in figures.values()]
        medians = [statistics.median(values) for values in rounds]
        below = [median - min(values) for median, values in zip(medians, rounds, strict=True)]
        above = [max(values) - median for median, values in zip(medians, rounds, strict=True)]
        axes.errorbar(positions, medians, [below, above], fmt="o-", capsize=3, label=name)


def draw_engine(result: Mapping[str, Any], path: Path) -> None:
    """Images a second by batch size."""
    figures = result["figures"]
    with chart(path, f"{path.stem}: {describe(result)}", "batch size", "images/s") as axes:
        axes.set_xscale("log", base=2)
        draw_rates(axes, figures, [float(size) for size in figures])


def draw_preprocess(result: Mapping[str, Any], path: Path) -> None:
    """Images a second by the photo's size."""
    figures = result["figures"]["rates"]
    with chart(path, f"{path.stem}: {describe(result)}", "megapixels", "images/s on one core") as axes:
        axes.set_xscale("log")
        axes.set_yscale("log")
        draw_rates(axes, figures, [float(label.removesuffix(" MP")) for label in figures])


def draw_service(result: Mapping[str, Any], path: Path) -> None:
    """Latency against offered load, from the open loop."""
    draw_latency(result["figures"]["open loop"], path, f"{path.stem}: {describe(result)}")


def draw_latency(summaries: Sequence[Mapping[str, Any]], path: Path, title: str) -> None:
    """Latency percentiles against offered load."""
    offered = [summary["offered_per_s"] for summary in summaries]
    with chart(path, title, "offered requests/s", "latency, ms") as axes:
        axes.set_yscale("log")
        for percentile in ("p50", "p90", "p99"):
            axes.plot(offered, [summary[f"{percentile}_ms"] for summary in summaries], "o-", label=percentile)


def describe(result: Mapping[str, Any]) -> str:
    """The hardware in a few words."""
    hardware = result["hardware"]
    return f"{hardware['cores']} cores, {hardware['cpu']}"


DRAW = {"engine": draw_engine, "preprocess": draw_preprocess, "service": draw_service}


def main() -> None:
    PICTURES.mkdir(exist_ok=True)
    for kind, draw in DRAW.items():
        for path in sorted(RESULTS.glob(f"{kind}*.json")):
            picture = PICTURES / f"{path.stem}.svg"
            draw(json.loads(path.read_text()), picture)
            print(picture)


if __name__ == "__main__":
    main()
