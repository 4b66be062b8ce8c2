import numpy as np
import pytest
import torch
from PIL import Image

from training import augment
from training.augment import Boxes


def rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def whole(n: int, *, flip: bool) -> Boxes:
    return Boxes(torch.zeros(n), torch.zeros(n), torch.ones(n), torch.ones(n), torch.full((n,), flip))


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(6, 3, 64, 64, generator=rng())


def test_boxes_lie_within_the_photo_and_keep_to_the_scale() -> None:
    boxes = augment.random_boxes(2000, (0.35, 1.0), rng())
    for start, length in ((boxes.top, boxes.height), (boxes.left, boxes.width)):
        assert start.min() >= 0
        assert (start + length).max() <= 1 + 1e-6
    area = boxes.height * boxes.width
    assert 0.3 < area.min() < 0.4 < 0.6 < area.mean() < 0.75
    assert 0.4 < boxes.flip.float().mean() < 0.6


def test_enlarging_the_whole_photo_is_what_serving_does(images: torch.Tensor) -> None:
    pixels = (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
    enlarged = augment.resize_boxes(augment.to_unit(pixels), whole(6, flip=False), 224)
    for photo, ours in zip(pixels, enlarged, strict=True):
        served = Image.fromarray(photo.numpy()).resize((224, 224), Image.Resampling.BILINEAR)
        assert np.abs(np.asarray(served) - 255 * ours.permute(1, 2, 0).numpy()).max() < 1.01
    assert torch.allclose(enlarged, augment.enlarge(augment.to_unit(pixels), 224), atol=1e-5)


def test_a_flipped_box_is_the_mirror_image(images: torch.Tensor) -> None:
    straight = augment.resize_boxes(images, whole(6, flip=False), 96)
    mirrored = augment.resize_boxes(images, whole(6, flip=True), 96)
    assert torch.allclose(mirrored, straight.flip(-1), atol=1e-5)


def test_a_box_shows_its_part_of_the_photo() -> None:
    image = torch.zeros(1, 3, 64, 64)
    image[:, :, 32:, :32] = 1  # the lower left quarter
    half, zero = torch.tensor([0.5]), torch.zeros(1)
    quarter = Boxes(top=half, left=zero, height=half, width=half, flip=torch.tensor([False]))
    shown = augment.resize_boxes(image, quarter, 32)
    assert shown[0, :, 1:, :-1].min() == 1


def test_colours_stay_in_range_and_grey_has_none(images: torch.Tensor) -> None:
    out = augment.jitter_colours(images, 0.4, 1.0, rng())
    assert out.shape == images.shape
    assert 0 <= out.min() < out.max() <= 1
    assert torch.allclose(out[:, 0], out[:, 1], atol=1e-6)
    assert torch.allclose(augment.jitter_colours(images, 0.0, 0.0, rng()), images, atol=1e-6)


def test_normalise_uses_imagenets_statistics() -> None:
    mean = torch.tensor(augment.IMAGENET_MEAN)[None, :, None, None].expand(1, 3, 2, 2)
    deviation = torch.tensor(augment.IMAGENET_STD)[None, :, None, None]
    assert torch.allclose(augment.normalise(mean + deviation), torch.ones(1, 3, 2, 2), atol=1e-6)


def test_cutmix_shares_the_target_by_area() -> None:
    n = 32
    images = torch.arange(n).float()[:, None, None, None].expand(n, 3, 40, 40)
    mixed, targets = augment.cutmix(images, torch.eye(n), 1.0, rng())
    own = (mixed == images).float().mean((1, 2, 3))
    assert torch.allclose(targets.sum(1), torch.ones(n))
    assert torch.allclose(targets.diagonal(), own)
    assert own.min() < 0.5 < own.max()


def test_cutmix_of_no_photos_changes_nothing(images: torch.Tensor) -> None:
    mixed, targets = augment.cutmix(images, torch.eye(6), 0.0, rng())
    assert torch.equal(mixed, images)
    assert torch.equal(targets, torch.eye(6))
