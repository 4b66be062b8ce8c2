"""Plot of a run: loss, learning rate and accuracy per epoch."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure


def plot_run(journal: Sequence[dict[str, float]], path: Path) -> None:
    """Writes a PNG with the records of the journal; the accuracy is drawn if it was measured more than once."""
    evaluated = [record for record in journal if "held_out_loss" in record]
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    loss, *others = figure.subplots(1, 1 + (len(evaluated) > 1), squeeze=False)[0]
    _line(loss, journal, "loss", "C0-", "training (augmented, smoothed)")
    _line(loss, evaluated, "held_out_loss", "C1o-", "held out")
    loss.set_ylabel("cross-entropy")
    rate = loss.twinx()
    _line(rate, journal, "lr", "C7:")
    rate.set_ylabel("learning rate (dotted)")
    for accuracy in others:
        _line(accuracy, evaluated, "held_out_top1", "C1o-", "top-1")
        _line(accuracy, evaluated, "held_out_top5", "C1--", "top-5")
        accuracy.set_ylabel("held-out accuracy of the averaged weights, %")
    for axes in (loss, *others):
        axes.set_xlabel("epoch")
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    figure.savefig(path, dpi=110)


def _line(axes: Axes, records: Sequence[dict[str, float]], key: str, style: str, label: str | None = None) -> None:
    axes.plot([record["epoch"] for record in records], [record[key] for record in records], style, ms=3, label=label)
