from pathlib import Path

from PIL import Image

from training.plot import plot_run


def test_plots_a_run_that_was_not_evaluated_yet(tmp_path: Path) -> None:
    plot_run([{"epoch": 1, "step": 50, "lr": 0.001, "loss": 5.0, "photos_per_s": 100.0}], tmp_path / "plot.png")
    with Image.open(tmp_path / "plot.png") as plot:
        assert plot.width > plot.height > 300
