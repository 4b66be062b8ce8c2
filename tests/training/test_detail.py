import pytest

from model.preprocess import Transform
from training.detail import SUBJECTS, candidates


def test_candidates_differ_in_the_two_sizes_alone() -> None:
    served = Transform(resize_size=224, detail_size=64)
    options = candidates(served)
    assert served in options.values()
    assert options["resize 256"] == Transform(resize_size=256)
    assert len(set(options.values())) == len(options)


def test_the_photos_are_part_of_the_package() -> None:
    data = pytest.importorskip("skimage.data")
    assert all(getattr(data, name)().ndim == 3 for name in SUBJECTS)
