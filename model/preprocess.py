"""Encoded bytes → RGB → resize → crop → (crop, crop, 3) uint8, equal to torchvision's chain on the same image."""

import io
import struct
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from PIL import ExifTags, Image, UnidentifiedImageError

from model.errors import ImageTooLarge, InvalidImage, ModelError, UnsupportedFormat

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
MAX_IMAGE_PIXELS = 50_000_000

Pixels = npt.NDArray[np.uint8]
_RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True)
class Transform:
    """What turns an image into a network's input; it belongs to the weights that were trained with it.

    ``resize_size`` is the shorter side in pixels before a centre crop of ``crop_size``; ``squash`` resizes both sides
    to ``crop_size`` instead and crops nothing. ``detail_size`` first reduces the shorter side to that many pixels, so
    that a sharp photo has no more detail than the photos a network was trained on. ``floor_margin`` rounds the crop's
    odd margin down, as transformers does, and not to even, as torchvision does. ``mean`` and ``std`` are of RGB
    in 0…1.
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
        if self.interpolation not in _RESAMPLING:
            raise ValueError(f"interpolation {self.interpolation!r} is not one of {', '.join(_RESAMPLING)}")
        if min(self.std) <= 0:
            raise ValueError(f"std {self.std} must be positive")
        if self.detail_size is not None and self.detail_size < 1:
            raise ValueError(f"detail_size {self.detail_size} must be at least 1")

    def __call__(self, image: Image.Image) -> torch.Tensor:
        """The normalised float32 tensor ``(3, crop_size, crop_size)`` that ``network`` takes, of a decoded image."""
        pixels = torch.from_numpy(crop(to_rgb(image), self))  # (crop, crop, 3) uint8
        scaled = pixels.permute(2, 0, 1).float() / 255
        return (scaled - torch.tensor(self.mean).view(3, 1, 1)) / torch.tensor(self.std).view(3, 1, 1)


def preprocess(data: bytes, transform: Transform, max_image_pixels: int = MAX_IMAGE_PIXELS) -> Pixels:
    """Decodes one encoded image and cuts out the network's input, ``(crop_size, crop_size, 3)`` uint8 RGB.

    Raises ``UnsupportedFormat``, ``ImageTooLarge`` (before decoding) or ``InvalidImage``. The first frame of an
    animation counts, transparency is laid over white, and a JPEG of more than four times the size needed is decoded
    at a reduced scale, never below twice ``resize_size``.
    """
    accepted = _sniff(data)
    try:
        with Image.open(io.BytesIO(data), formats=accepted) as image:
            _check_size(image, transform, max_image_pixels)
            _draft(image, transform)
            image.load()
            return crop(to_rgb(_upright(image)), transform)
    except (ModelError, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise ImageTooLarge(f"The image announces more pixels than the limit of {max_image_pixels}.") from error
    except UnidentifiedImageError as error:
        raise InvalidImage(f"The {accepted[0]} image's header is broken or cut off.") from error
    except Exception as error:  # Pillow's decoders raise errors of any kind on hostile bytes
        raise InvalidImage(f"The {accepted[0]} image does not decode: {error}") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """``image`` in mode RGB: transparency over white, 16-bit grey scaled to 8; raises ``InvalidImage`` on mode F."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode == "F":
        raise InvalidImage("Floating-point images are not accepted: their white level is unknown.")
    if image.mode.startswith("I"):  # 16 bits, held in 16 or 32
        grey = np.asarray(image).clip(0, 65535)
        if "transparency" in image.info:
            grey = np.where(grey == image.info["transparency"], 65535, grey)
        return Image.fromarray((grey // 257).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def crop(image: Image.Image, transform: Transform) -> Pixels:
    """Resizes an RGB image and cuts out its centre: ``(crop_size, crop_size, 3)`` uint8."""
    resampling, side = _RESAMPLING[transform.interpolation], transform.crop_size
    if transform.detail_size is not None and min(image.size) > transform.detail_size:
        image = image.resize(_scaled(image.size, transform.detail_size), resampling)
    if transform.squash:
        return np.array(image.resize((side, side), resampling))
    image = image.resize(_scaled(image.size, transform.resize_size), resampling)
    margins = [(length - side) / 2 for length in image.size]
    left, top = (int(margin) if transform.floor_margin else round(margin) for margin in margins)
    return np.array(image.crop((left, top, left + side, top + side)))


def load_decoders() -> None:
    """Imports Pillow's decoders, so that the first request does not pay for it."""
    Image.init()


def _sniff(data: bytes) -> tuple[str, ...]:
    """The accepted formats whose signature ``data`` begins with; no decoder of another format is ever tried."""
    load_decoders()
    prefix = data[:16]
    accepted = tuple(name for name in FORMATS if name in Image.OPEN and _begins(name, prefix))
    if not accepted:
        raise UnsupportedFormat(f"The file is none of the accepted image formats: {', '.join(FORMATS)}.")
    return accepted


def _begins(name: str, prefix: bytes) -> bool:
    accept = Image.OPEN[name][1]
    return accept is not None and accept(prefix) is True


def _check_size(image: Image.Image, transform: Transform, max_image_pixels: int) -> None:
    width, height = image.size
    if width * height > max_image_pixels:
        raise ImageTooLarge(f"The image has {width}×{height} pixels; the limit is {max_image_pixels} in all.")
    wide, high = (transform.crop_size,) * 2 if transform.squash else _scaled(image.size, transform.resize_size)
    if wide * high > max(max_image_pixels, 4 * transform.resize_size**2):  # photos of usual shape are never too long
        raise ImageTooLarge(
            f"The image of {width}×{height} pixels is too long: resized, it has {wide}×{high}; the limit is"
            f" {max_image_pixels} in all."
        )


def _draft(image: Image.Image, transform: Transform) -> None:
    """Lets libjpeg decode at 1/2, 1/4 or 1/8, never below twice ``resize_size`` (a no-op for other formats)."""
    if image.format in ("JPEG", "MPO") and image.mode in ("L", "RGB"):
        image.draft(None, _scaled(image.size, 2 * transform.resize_size))


def _upright(image: Image.Image) -> Image.Image:
    """Turns ``image`` as its EXIF block says; unlike ``ImageOps.exif_transpose``, never writes the block anew."""
    try:
        method = _UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except (SyntaxError, struct.error, ValueError, TypeError, KeyError, OSError):
        return image  # an unreadable EXIF block says nothing of the orientation; viewers show such a photo as it is
    return image if method is None else image.transpose(method)


def _scaled(size: tuple[int, int], shorter: int) -> tuple[int, int]:
    """The size whose shorter side is ``shorter``, its longer side truncated as torchvision does."""
    width, height = size
    if width <= height:
        return shorter, int(shorter * height / width)
    return int(shorter * width / height), shorter
