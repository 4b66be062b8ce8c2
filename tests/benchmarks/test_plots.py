"""Every kept result has its picture, drawn from it alone."""

import json

import pytest

pytest.importorskip("matplotlib")

from benchmarks.plots import DRAW, PICTURES
from benchmarks.rounds import RESULTS

KEPT = [(draw, path) for kind, draw in DRAW.items() for path in sorted(RESULTS.glob(f"{kind}*.json"))]


@pytest.mark.parametrize(("draw", "path"), KEPT, ids=[path.stem for _, path in KEPT])
def test_a_result_has_its_picture(tmp_path, draw, path):
    picture = tmp_path / f"{path.stem}.svg"
    draw(json.loads(path.read_text()), picture)
    drawn = picture.read_text()
    draw(json.loads(path.read_text()), picture)
    assert picture.read_text() == drawn
    assert (PICTURES / picture.name).exists()
