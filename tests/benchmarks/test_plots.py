from pathlib import Path

import pytest

pytest.importorskip("matplotlib", reason="in the training group, which the service does not need")

from benchmarks.plots import PICTURE, draw_all, read_results


def test_committed_picture_is_drawn_from_committed_results(tmp_path: Path) -> None:
    picture = tmp_path / "results.svg"
    draw_all(read_results(), picture)
    drawn = picture.read_bytes()
    draw_all(read_results(), picture)
    assert picture.read_bytes() == drawn
    committed = PICTURE.read_text()
    assert all(f">{name}: " in committed for name in read_results())
