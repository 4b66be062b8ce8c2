from pathlib import Path

import numpy as np
import pytest

from tests.training.conftest import make_photos
from training.data import VAL_FILE, class_labels, decode, load_train, read_encoded, split


def test_photos_come_back_as_they_were_packed(data_dir: Path) -> None:
    encoded, labels = read_encoded(data_dir / VAL_FILE)
    expected = make_photos(36)
    assert np.array_equal(np.stack([decode(photo) for photo in encoded]), expected.images[27:])
    assert np.array_equal(labels, expected.labels[27:])


def test_the_training_set_is_decoded_once(data_dir: Path, tmp_path: Path) -> None:
    first = load_train(data_dir, tmp_path / "cache")
    for file in data_dir.glob("train-*"):
        file.unlink()
    second = load_train(data_dir, tmp_path / "cache")
    assert np.array_equal(first.images, make_photos(36).images[:27])
    assert np.array_equal(second.images, first.images)
    assert np.array_equal(second.labels, first.labels)


def test_split_holds_out_every_class_evenly_and_shares_nothing() -> None:
    labels = np.repeat(np.arange(5), 10)
    train, held_out = split(labels, 15, seed=3)
    assert np.bincount(labels[held_out]).tolist() == [3] * 5
    assert sorted([*train, *held_out]) == list(range(50))
    assert np.array_equal(split(labels, 15, seed=3)[1], held_out)
    assert not np.array_equal(split(labels, 15, seed=4)[1], held_out)


@pytest.mark.parametrize("held_out", [7, 50])
def test_split_refuses_what_cannot_be_even(held_out: int) -> None:
    with pytest.raises(ValueError, match="evenly"):
        split(np.repeat(np.arange(5), 10), held_out, seed=0)


def test_classes_that_share_a_name_are_told_apart(data_dir: Path) -> None:
    assert class_labels(data_dir) == ["goldfish", "crane (bird)", "crane (machine)", "espresso"]
