"""Augmentation of whole batches: random crops, flips, colours and cut-outs mixed between photos, as tensor algebra."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow's "L"


@dataclass(frozen=True)
class Boxes:
    """A crop per photo, as fractions of its side: ``(N,)`` tops, lefts, heights and widths; ``flip`` is bool."""

    top: Tensor
    left: Tensor
    height: Tensor
    width: Tensor
    flip: Tensor


def _uniform(n: int, low: float, high: float, rng: torch.Generator) -> Tensor:
    return torch.rand(n, generator=rng, device=rng.device) * (high - low) + low


def random_boxes(n: int, scale: tuple[float, float], rng: torch.Generator) -> Boxes:
    """Crops of ``scale`` of the area and aspect 3/4 to 4/3 (Szegedy et al., CVPR 2015), half of them mirrored."""
    area = _uniform(n, *scale, rng)
    aspect = torch.exp(_uniform(n, -0.2877, 0.2877, rng))  # log(4/3)
    height = (area / aspect).sqrt().clamp(max=1.0)
    width = (area * aspect).sqrt().clamp(max=1.0)
    top = _uniform(n, 0, 1, rng) * (1 - height)
    left = _uniform(n, 0, 1, rng) * (1 - width)
    return Boxes(top, left, height, width, _uniform(n, 0, 1, rng) < 0.5)


def _interpolation(start: Tensor, length: Tensor, mirror: Tensor | None, source: int, size: int) -> Tensor:
    """Bilinear weights ``(N, size, source)`` that read ``size`` pixels from each photo's interval; edges repeat."""
    centres = (torch.arange(size, device=start.device) + 0.5) / size  # (size,)
    if mirror is not None:
        centres = torch.where(mirror[:, None], 1 - centres, centres)  # (N, size)
    at = (start[:, None] + length[:, None] * centres) * source - 0.5
    at = at.clamp(0, source - 1)
    return (1 - (at[..., None] - torch.arange(source, device=start.device)).abs()).clamp(min=0)


def resize_boxes(images: Tensor, boxes: Boxes, size: int) -> Tensor:
    """Each photo's box enlarged bilinearly: ``(N, 3, S, S)`` to ``(N, 3, size, size)``.

    As two small matrix products a photo, which is several times faster on a CPU than sampling a grid.
    """
    n, channels, source, _ = images.shape
    rows = _interpolation(boxes.top, boxes.height, None, source, size).to(images.dtype)  # (N, size, S)
    columns = _interpolation(boxes.left, boxes.width, boxes.flip, source, size).to(images.dtype)
    wide = torch.bmm(images.reshape(n, channels * source, source), columns.transpose(1, 2))  # (N, 3·S, size)
    wide = wide.view(n, channels, source, size)
    return torch.matmul(rows[:, None], wide)  # (N, 3, size, size)


def jitter_colours(images: Tensor, strength: float, grey: float, rng: torch.Generator) -> Tensor:
    """Random brightness, contrast and saturation by ±``strength``, and a share ``grey`` without colour.

    ``images (N, 3, S, S)`` in 0…1, and so is the result.
    """
    n = len(images)
    luma = nn.functional.conv2d(images, images.new_tensor(_LUMA)[None, :, None, None])  # (N, 1, S, S)
    saturation = _uniform(n, 1 - strength, 1 + strength, rng)
    saturation = torch.where(_uniform(n, 0, 1, rng) < grey, 0.0, saturation)[:, None, None, None]
    contrast = _uniform(n, 1 - strength, 1 + strength, rng)[:, None, None, None]
    brightness = _uniform(n, 1 - strength, 1 + strength, rng)[:, None, None, None]
    out = torch.lerp(luma, images, saturation)
    mean = luma.mean((2, 3), keepdim=True)
    return (torch.lerp(mean, out, contrast) * brightness).clamp(0, 1)


def normalise(images: Tensor) -> Tensor:
    """``(N, 3, H, W)`` in 0…1 to zero mean and unit deviation by ImageNet's statistics."""
    mean, std = images.new_tensor(IMAGENET_MEAN), images.new_tensor(IMAGENET_STD)
    return (images - mean[:, None, None]) / std[:, None, None]


def cutmix(images: Tensor, targets: Tensor, share: float, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """In a ``share`` of the photos, a rectangle of the batch's next photo and its share of the target.

    ``images (N, 3, H, W)``, ``targets (N, K)`` probabilities. CutMix, Yun et al., ICCV 2019, with α = 1.
    """
    n, _, height, width = images.shape
    side = (1 - _uniform(n, 0, 1, rng)).sqrt()
    y, x = _uniform(n, 0, 1, rng), _uniform(n, 0, 1, rng)
    chosen = _uniform(n, 0, 1, rng) < share
    rows = _inside(y, side, height) & chosen[:, None]  # (N, H)
    columns = _inside(x, side, width)
    pasted = rows[:, None, :, None] & columns[:, None, None, :]  # (N, 1, H, W)
    kept = 1 - pasted.float().mean((1, 2, 3))[:, None]  # (N, 1)
    mixed = torch.where(pasted, images.roll(1, 0), images)
    return mixed, kept * targets + (1 - kept) * targets.roll(1, 0)


def _inside(centre: Tensor, side: Tensor, size: int) -> Tensor:
    at = (torch.arange(size, device=centre.device) + 0.5) / size
    return (at - centre[:, None]).abs() < side[:, None] / 2


def to_unit(images: Tensor) -> Tensor:
    """``(N, S, S, 3) uint8`` to ``(N, 3, S, S) float32`` in 0…1."""
    return images.permute(0, 3, 1, 2).float().div(255)


def enlarge(images: Tensor, size: int) -> Tensor:
    """The whole photos ``(N, 3, S, S)`` at ``(N, 3, size, size)``, without augmentation."""
    return nn.functional.interpolate(images, size=(size, size), mode="bilinear", antialias=True)
