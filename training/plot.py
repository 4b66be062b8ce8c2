"""Draws a run: loss, accuracy and learning rate over the epochs."""

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

BLUE, ORANGE, GREY = "#2a6fbb", "#d9730d", "#8a8f98"


def draw_run(records: list[dict[str, Any]], path: Path) -> None:
    """Writes a PNG of the journal's records; steps with held-out figures and steps with training figures differ."""
    trained = [record for record in records if "loss" in record]
    measured = [record for record in records if "held_out_loss" in record]
    per_epoch = trained[-1]["step"] / trained[-1]["epoch"] if trained else 1.0
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    loss, accuracy = figure.subplots(1, 2)
    epochs = [record["epoch"] for record in trained]
    ends = [record["step"] / per_epoch for record in measured]
    loss.plot(epochs, [record["loss"] for record in trained], color=BLUE, lw=1, label="training (augmented, smoothed)")
    loss.plot(ends, [record["held_out_loss"] for record in measured], color=ORANGE, marker="o", ms=3, label="held out")
    loss.set(xlabel="epoch", ylabel="cross-entropy")
    rate = loss.twinx()
    rate.plot(epochs, [record["lr"] for record in trained], color=GREY, lw=1, ls=":")
    rate.set_ylabel("learning rate (dotted)", color=GREY)
    accuracy.plot(epochs, [record["train_top1"] for record in trained], color=BLUE, lw=1, label="training (augmented)")
    accuracy.plot(ends, [record["held_out_top1"] for record in measured], color=ORANGE, marker="o", ms=3, label="top-1")
    accuracy.plot(ends, [record["held_out_top5"] for record in measured], color=ORANGE, ls="--", label="top-5")
    accuracy.set(xlabel="epoch", ylabel="accuracy, % (held out: averaged weights)")
    for axes in (loss, accuracy):
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    figure.savefig(path, dpi=110)
