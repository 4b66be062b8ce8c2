from pathlib import Path

import pytest
from PIL import Image

pytest.importorskip("matplotlib", reason="in the training group, which the service does not need")

from benchmarks.plots import PICTURE, draw_all, read_results


def described(picture: Path) -> list[str]:
    """The names of the results that a picture shows, from its metadata."""
    with Image.open(picture) as image:
        return str(image.info["Description"]).split()


def test_committed_picture_shows_every_committed_result(tmp_path: Path) -> None:
    results = read_results()
    picture = tmp_path / "results.png"
    draw_all(results, picture)
    assert described(PICTURE) == described(picture) == list(results)


def test_same_results_give_the_same_picture(tmp_path: Path) -> None:
    for name in ("first.png", "second.png"):
        draw_all(read_results(), tmp_path / name)
    assert (tmp_path / "first.png").read_bytes() == (tmp_path / "second.png").read_bytes()
