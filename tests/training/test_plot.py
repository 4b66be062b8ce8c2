from pathlib import Path

from PIL import Image

from training.plot import draw_run


def test_a_run_in_its_first_epoch_can_be_drawn(tmp_path: Path) -> None:
    record = {"step": 50, "epoch": 0.5, "lr": 0.001, "loss": 5.0, "train_top1": 1.0}
    draw_run([record], tmp_path / "plot.png")
    with Image.open(tmp_path / "plot.png") as plot:
        assert plot.width > plot.height > 300
