from pathlib import Path

import numpy as np
import pytest
import torch

from tests.training.conftest import make_images, make_labels
from training.data import Photos, class_labels, load_train, split


def test_load_train_returns_the_photos_of_all_archives(data_dir: Path) -> None:
    photos = load_train(data_dir)
    assert np.array_equal(photos.images.permute(0, 2, 3, 1).numpy(), make_images(36)[:27])
    assert photos.labels.tolist() == make_labels(27).tolist()


def numbered(labels: list[int]) -> Photos:
    return Photos(torch.arange(len(labels)), torch.tensor(labels))


def test_split_holds_out_the_same_number_of_each_class() -> None:
    photos = numbered([0] * 10 + [1] * 7 + [2] * 12)
    train, held_out = split(photos, 3, seed=3)
    assert held_out.labels.bincount().tolist() == [3, 3, 3]
    assert sorted([*train.images.tolist(), *held_out.images.tolist()]) == photos.images.tolist()
    assert torch.equal(photos.labels[train.images], train.labels)


def test_split_depends_on_the_seed_only() -> None:
    photos = numbered([0, 1] * 20)
    assert split(photos, 3, seed=3)[1].images.tolist() == split(photos, 3, seed=3)[1].images.tolist()
    assert split(photos, 3, seed=3)[1].images.tolist() != split(photos, 3, seed=4)[1].images.tolist()


def test_split_rejects_more_photos_than_a_class_has() -> None:
    with pytest.raises(ValueError, match="7 photos per class of 7"):
        split(numbered([0] * 10 + [1] * 7), 7, seed=0)


def test_class_labels_distinguish_classes_of_the_same_name(data_dir: Path) -> None:
    assert class_labels(data_dir) == ["goldfish", "crane (bird)", "crane (machine)", "espresso"]
