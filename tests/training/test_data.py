from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional

from tests.training.conftest import make_images, make_labels
from training.data import Photos, augmentation, class_labels, load_train, normalize, split
from training.export import TRANSFORM
from training.recipe import Phase, Recipe


def test_load_train_returns_the_photos_of_all_archives(data_dir: Path) -> None:
    photos = load_train(data_dir, functional.pil_to_tensor)
    images = torch.stack([image for image, _ in photos])  # type: ignore[attr-defined]  # a torch dataset is iterable
    assert np.array_equal(images.permute(0, 2, 3, 1).numpy(), make_images(36)[:27])
    assert photos.labels.tolist() == [label for _, label in photos] == make_labels(27).tolist()  # type: ignore[attr-defined]  # as above


@pytest.mark.parametrize("trivial_augment", [False, True])
def test_augmentation_returns_a_random_tensor_of_the_input_size(
    photos: Photos, recipe: Recipe, trivial_augment: bool
) -> None:
    transform = augmentation(replace(recipe, trivial_augment=trivial_augment), Phase(1.0, 96, (0.35, 1.0)))
    augmented = replace(photos, transform=transform)
    first, second = augmented[0][0], augmented[0][0]
    assert first.shape == (3, 96, 96)
    assert first.dtype == torch.uint8
    assert not torch.equal(first, second)


def test_normalize_matches_the_served_transform() -> None:
    image = Image.fromarray(make_images(1)[0])
    served = replace(TRANSFORM, resize_size=64, crop_size=64)  # changes no pixel
    torch.testing.assert_close(normalize(functional.pil_to_tensor(image)), served(image))


def numbered(labels: list[int]) -> Photos:
    return Photos([bytes([index]) for index in range(len(labels))], np.array(labels), TRANSFORM)


def test_split_holds_out_the_same_number_of_each_class() -> None:
    photos = numbered([0] * 10 + [1] * 7 + [2] * 12)
    train, held_out = split(photos, 3, seed=3)
    assert np.bincount(held_out.labels).tolist() == [3, 3, 3]
    assert sorted([*train.encoded, *held_out.encoded]) == photos.encoded
    assert all(photos.labels[photo[0]] == label for photo, label in zip(train.encoded, train.labels, strict=True))


def test_split_depends_on_the_seed_only() -> None:
    photos = numbered([0, 1] * 20)
    assert split(photos, 3, seed=3)[1].encoded == split(photos, 3, seed=3)[1].encoded
    assert split(photos, 3, seed=3)[1].encoded != split(photos, 3, seed=4)[1].encoded


def test_split_rejects_more_photos_than_a_class_has() -> None:
    with pytest.raises(ValueError, match="7 photos per class of 7"):
        split(numbered([0] * 10 + [1] * 7), 7, seed=0)


def test_class_labels_distinguish_classes_of_the_same_name(data_dir: Path) -> None:
    assert class_labels(data_dir) == ["goldfish", "crane (bird)", "crane (machine)", "espresso"]
