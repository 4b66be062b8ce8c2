"""Augmentation of whole batches with matrix products, which are fast on CPUs and GPUs alike."""

from functools import cache

import torch
from torch import Tensor
from torch.nn import functional
from torchvision.transforms import v2

from model.images.transform import IMAGENET_MEAN, IMAGENET_STD
from training.recipe import Phase

_LUMA = (0.299, 0.587, 0.114)
_MAX_LOG_ASPECT = 0.29  # 3:4 to 4:3


def augment(photos: Tensor, labels: Tensor, phase: Phase, num_classes: int) -> tuple[Tensor, Tensor]:
    """Returns augmented, normalized inputs ``(N, 3, size, size)`` bfloat16 and targets ``(N, num_classes)`` float32.

    ``photos (N, 3, H, W)`` uint8. ``size`` is one of the phase's input sizes. Crop, mirroring and color differ for each
    photo; CutMix or MixUp is chosen for the batch.
    """
    size = phase.input_sizes[int(torch.randint(len(phase.input_sizes), ()))]
    images = random_crop(normalize(random_colors(photos / 255, phase)), phase, size)
    mixes = [v2.CutMix(num_classes=num_classes), v2.MixUp(alpha=0.2, num_classes=num_classes), v2.Identity()]
    mix = v2.RandomChoice(mixes, p=[phase.cutmix, phase.mixup, 1 - phase.cutmix - phase.mixup])
    mixed, targets = mix(images, labels)
    return mixed, (functional.one_hot(targets, num_classes) if targets.ndim == 1 else targets).float()


def normalize(images: Tensor) -> Tensor:
    """Returns RGB values from 0 to 1, ``(N, 3, H, W)``, with the mean and standard deviation of ImageNet."""
    mean, std = (_constant(values, images.device).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return (images - mean) / std


@cache
def _constant(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Copied once, as copying to a GPU waits for all that it has to do."""
    return torch.tensor(values, device=device)


def random_colors(images: Tensor, phase: Phase) -> Tensor:
    """Changes brightness, contrast and saturation of each photo ``(N, 3, H, W)`` of values from 0 to 1."""
    factors = 1 + phase.color * (2 * torch.rand(3, len(images), 1, 1, device=images.device) - 1)
    brightness, contrast, saturation = factors
    saturation = saturation * (torch.rand_like(saturation) >= phase.grayscale)
    gray = _constant(_LUMA, images.device).expand(3, 3)
    matrix = brightness * contrast * (saturation * torch.eye(3, device=images.device) + (1 - saturation) * gray)
    offset = 0.5 * brightness * (1 - contrast)
    return torch.baddbmm(offset, matrix, images.flatten(2)).clamp_(0, 1).view_as(images)


def random_crop(images: Tensor, phase: Phase, size: int) -> Tensor:
    """Resizes a random crop of each photo to ``(N, 3, size, size)`` bfloat16, and mirrors half of them."""
    count, _, height, width = images.shape
    random = torch.rand(5, count, device=images.device)
    smallest, largest = phase.crop_area
    area = smallest + (largest - smallest) * random[0]
    aspect = torch.exp(_MAX_LOG_ASPECT * (2 * random[1] - 1))
    extents = torch.stack([area / aspect, area * aspect]).sqrt().clamp(max=1)  # relative height and width
    starts = (1 - extents) * random[2:4]
    rows = resize_matrix(starts[0], extents[0], height, size)
    columns = resize_matrix(starts[1], extents[1], width, size)
    columns = torch.where((random[4] < 0.5).view(-1, 1, 1), columns, columns.flip(1))
    channels = images.to(torch.bfloat16).transpose(0, 1)  # (3, N, H, W)
    return (rows @ channels @ columns.transpose(1, 2)).transpose(0, 1)


def resize_matrix(start: Tensor, extent: Tensor, length: int, size: int) -> Tensor:
    """Returns matrices ``(N, size, length)`` bfloat16 that resize parts of an axis bilinearly, with antialiasing.

    ``start`` and ``extent (N,)`` describe each part relative to the axis of ``length`` pixels.
    """
    outputs = (torch.arange(size, device=start.device) + 0.5) / size
    centers = length * (start[:, None] + extent[:, None] * outputs)  # (N, size)
    reach = (length * extent / size).clamp(min=1).view(-1, 1, 1)  # of the triangle filter, in pixels
    distance = centers[:, :, None] - (torch.arange(length, device=start.device) + 0.5)
    weights = (1 - distance.abs() / reach).clamp_(min=0)
    return (weights / weights.sum(2, keepdim=True)).to(torch.bfloat16)
