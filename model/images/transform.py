"""Encoded bytes → RGB → resize → crop → (crop, crop, 3) uint8, equal to torchvision's tensor chain."""

import io
import time
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from PIL import Image

from model.errors import ImageTooLarge
from model.images.decode import MAX_IMAGE_PIXELS, EncodedImage, load_transforms, to_rgb
from model.images.jpeg import Pixels

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "Pixels", "Transform", "preprocess"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

_INTERPOLATIONS = ("bilinear", "bicubic")
_DECODING_RUNS = 5
_MIN_REDUCED_INPUT = 128


@dataclass(frozen=True)
class Transform:
    """How an image becomes a network's input; part of the weights that were trained with it.

    ``resize_size`` is the shorter side in pixels before a center crop of ``crop_size``; ``squash`` resizes both sides
    to ``crop_size`` instead, without a crop. ``detail_size`` first reduces the shorter side to that many pixels, so
    that a sharp photo has no more detail than the photos a network was trained on. ``floor_margin`` rounds an odd
    margin of the crop down, as transformers does, instead of to even, as torchvision does. ``mean`` and ``std`` are
    of RGB values from 0 to 1.
    """

    resize_size: int
    crop_size: int = 224
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    detail_size: int | None = None
    squash: bool = False
    floor_margin: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.crop_size <= self.resize_size:
            raise ValueError(f"crop_size {self.crop_size} must be between 1 and resize_size {self.resize_size}")
        if self.interpolation not in _INTERPOLATIONS:
            raise ValueError(f"interpolation {self.interpolation!r} is not one of {', '.join(_INTERPOLATIONS)}")
        if min(self.std) <= 0:
            raise ValueError(f"std {self.std} must be positive")
        if self.detail_size is not None and self.detail_size < 1:
            raise ValueError(f"detail_size {self.detail_size} must be at least 1")

    def __str__(self) -> str:
        reduce = f"reduce to {self.detail_size}, " if self.detail_size else ""
        resize = "resize both sides" if self.squash else f"resize to {self.resize_size} and crop"
        return f"{reduce}{resize} to {self.crop_size} pixels, {self.interpolation}, mean {self.mean}, std {self.std}"

    def __call__(self, image: Image.Image) -> torch.Tensor:
        """The normalized float32 tensor ``(3, crop_size, crop_size)`` that ``network`` takes, of a decoded image."""
        pixels = torch.from_numpy(resize_and_crop(np.array(to_rgb(image)), self))  # (crop, crop, 3) uint8
        scaled = pixels.permute(2, 0, 1).float() / 255
        return (scaled - torch.tensor(self.mean).view(3, 1, 1)) / torch.tensor(self.std).view(3, 1, 1)


def preprocess(data: bytes, transform: Transform, max_image_pixels: int = MAX_IMAGE_PIXELS) -> Pixels:
    """Decodes one encoded image and returns the network's input, ``(crop_size, crop_size, 3)`` uint8 RGB.

    A JPEG that is more than twice as large as needed is decoded at a reduced scale, never below twice ``resize_size``;
    not for inputs below 128 pixels, whose top classes it would change.
    It may have more pixels than other images, see ``EncodedImage``.
    Raises ``UnsupportedFormat``, ``ImageTooLarge`` (before decoding), ``InvalidImage`` or ``MemoryError``.
    """
    is_small = transform.crop_size < _MIN_REDUCED_INPUT
    image = EncodedImage(data, max_image_pixels, None if is_small else 2 * transform.resize_size)
    _check_resized_size(image.size, transform, max_image_pixels)
    return resize_and_crop(image.decode(), transform)


def measure_decoding(transform: Transform) -> float:
    """Seconds that ``preprocess`` takes for a photo of common size, the least of a few runs."""
    noise = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
    photo = Image.fromarray(noise).resize((500, 375), Image.Resampling.BICUBIC)
    encoded = io.BytesIO()
    photo.save(encoded, "JPEG", quality=95)
    times = []
    for _ in range(_DECODING_RUNS):
        started_at = time.perf_counter()
        preprocess(encoded.getvalue(), transform)
        times.append(time.perf_counter() - started_at)
    return min(times)


def resize_and_crop(pixels: Pixels, transform: Transform) -> Pixels:
    """Resizes RGB pixels ``(H, W, 3)`` uint8 and crops the center: ``(crop_size, crop_size, 3)`` uint8.

    The steps are torchvision's ``v2.functional.resize`` with antialiasing and ``center_crop``, of a uint8 tensor.
    """
    v2 = load_transforms()
    height, width = pixels.shape[:2]
    side = transform.crop_size
    # Views of NumPy, as each of torch's releases the interpreter lock. Without the strides that reshape makes, torch
    # would not see that the pixels are channels last, and copy them.
    batch = np.ascontiguousarray(pixels).reshape(1, height, width, 3)
    image = torch.from_numpy(batch.transpose(0, 3, 1, 2))  # (1, 3, H, W), channels last
    if transform.detail_size is not None and min(width, height) > transform.detail_size:
        image = _resize(image, [transform.detail_size], transform)
    image = _resize(image, [side, side] if transform.squash else [transform.resize_size], transform)
    if transform.floor_margin:
        top, left = ((length - side) // 2 for length in image.shape[2:])
        image = v2.functional.crop(image, top, left, side, side)
    else:
        image = v2.functional.center_crop(image, [side, side])
    cropped: Pixels = image.numpy()[0].transpose(1, 2, 0)
    return cropped.copy()  # a view would keep all of the resized image in memory


def _resize(image: torch.Tensor, size: list[int], transform: Transform) -> torch.Tensor:
    """A single number in ``size`` is the shorter side."""
    v2 = load_transforms()
    interpolation = v2.InterpolationMode(transform.interpolation)
    resized: torch.Tensor = v2.functional.resize(image, size, interpolation, antialias=True)
    return resized


def _check_resized_size(size: tuple[int, int], transform: Transform, max_image_pixels: int) -> None:
    """Raises ``ImageTooLarge`` for an image so long and narrow that resizing it would exceed the limit."""
    if transform.squash:
        return
    width, height = _scaled(size, transform.resize_size)
    if width * height > max(max_image_pixels, 4 * transform.resize_size**2):  # photos of usual shape always pass
        raise ImageTooLarge(
            f"The image of {size[0]}×{size[1]} pixels is too long: resized, it has {width}×{height}; the limit is"
            f" {max_image_pixels} in total."
        )


def _scaled(size: tuple[int, int], shorter: int) -> tuple[int, int]:
    """The size whose shorter side is ``shorter``, its longer side truncated as in torchvision."""
    width, height = size
    if width <= height:
        return shorter, int(shorter * height / width)
    return int(shorter * width / height), shorter
