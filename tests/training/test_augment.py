from dataclasses import replace

import pytest
import torch
from torchvision.transforms import v2

from tests.training.conftest import make_images
from training.augment import augment, normalize, random_colors, random_crop, resize_matrix
from training.recipe import Phase

PLAIN = Phase((96,), (1.0, 1.0), color=0.0, grayscale=0.0, cutmix=0.0, mixup=0.0)
RANDOM = Phase((64, 96), (0.2, 1.0))


def photos() -> torch.Tensor:
    return torch.from_numpy(make_images(8)).permute(0, 3, 1, 2)


def random_phase(**changes: float) -> Phase:
    return replace(PLAIN, **changes)  # type: ignore[arg-type]  # the tuples are not changed


@pytest.mark.parametrize("size", [40, 64, 150])
def test_resize_matrix_resizes_a_whole_photo_as_torchvision_does(size: int) -> None:
    images = normalize(photos() / 255)
    matrix = resize_matrix(torch.zeros(8), torch.ones(8), 64, size).float()
    resized = matrix[:, None] @ images @ matrix[:, None].transpose(2, 3)
    expected = v2.functional.resize(images, [size, size], antialias=True)
    torch.testing.assert_close(resized, expected, atol=0.05, rtol=0)  # weights in bfloat16


def test_resize_matrix_selects_a_part_of_the_axis() -> None:
    matrix = resize_matrix(torch.tensor([0.25]), torch.tensor([0.5]), 8, 4)
    assert torch.equal(
        matrix[0] @ torch.arange(8.0).to(torch.bfloat16), torch.tensor([2.0, 3, 4, 5]).to(torch.bfloat16)
    )


def test_random_crop_mirrors_about_half_of_the_photos() -> None:
    torch.manual_seed(0)
    ramp = torch.linspace(0, 1, 64).expand(400, 3, 64, 64)
    cropped = random_crop(ramp, RANDOM, 32).float()
    mirrored = cropped[:, 0, 0, 0] > cropped[:, 0, 0, -1]
    assert 150 < int(mirrored.sum()) < 250
    assert cropped.shape == (400, 3, 32, 32)
    extents = (cropped[:, 0, 0, -1] - cropped[:, 0, 0, 0]).abs()
    assert 0.3 < extents.min() < 0.5 < 0.9 < extents.max()


def test_random_colors_of_strength_zero_change_nothing() -> None:
    images = photos() / 255
    torch.testing.assert_close(random_colors(images, PLAIN), images)


def test_random_colors_differ_for_each_photo_and_keep_the_range() -> None:
    torch.manual_seed(0)
    images = (photos()[:1] / 255).expand(8, 3, 64, 64)
    changed = random_colors(images, RANDOM)
    assert 0 <= changed.min() < changed.max() <= 1
    assert len({float(image.mean()) for image in changed}) == 8


def test_grayscale_makes_the_channels_equal() -> None:
    gray = random_colors(photos() / 255, random_phase(grayscale=1.0))
    torch.testing.assert_close(gray[:, 0], gray[:, 1])
    torch.testing.assert_close(gray[:, 1], gray[:, 2])


def test_augment_returns_normalized_inputs_of_one_of_the_sizes_and_targets() -> None:
    torch.manual_seed(0)
    sizes = set()
    for _ in range(12):
        images, targets = augment(photos(), torch.arange(8), replace(PLAIN, input_sizes=(64, 96)), 8)
        assert torch.equal(targets, torch.eye(8))
        assert images.dtype == torch.bfloat16
        sizes.add(tuple(images.shape))
    assert sizes == {(8, 3, 64, 64), (8, 3, 96, 96)}


@pytest.mark.parametrize("mix", ["cutmix", "mixup"])
def test_mixed_batches_have_mixed_targets(mix: str) -> None:
    torch.manual_seed(0)
    _, targets = augment(photos(), torch.arange(8), random_phase(**{mix: 1.0}), 8)
    torch.testing.assert_close(targets.sum(1), torch.ones(8))
    assert bool((targets < 1).all())
