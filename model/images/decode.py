"""Encoded bytes to upright RGB pixels: JPEG through libjpeg-turbo in one call, everything else through Pillow."""

import importlib
import io
import logging
import warnings
from functools import cache
from types import ModuleType

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from model.errors import ImageTooLarge, InvalidImage, ModelError, UnsupportedFormat
from model.images import tiff
from model.images.bmp import expand_bit_fields
from model.images.containers import Segment
from model.images.foreign import describe
from model.images.heif import find_heif_format, register_heif_decoder
from model.images.jpeg import (
    Pixels,
    complete_jpeg,
    decode_jpeg,
    describe_unsupported,
    is_single_scan,
    lacks_end_marker,
    read_jpeg_size,
)
from model.images.libtiff import silence_libtiff
from model.images.limits import check_jpeg, check_structure, check_tiles
from model.images.metadata import without_metadata
from model.images.orientation import find_item_orientation, find_jpeg_orientation, find_orientation
from model.images.png import check_rows

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")  # and HEIF, if pi-heif is installed

_PNG_BIT_DEPTH = 24  # its position in a PNG file
_SCALES = (8, 4, 2)  # at which libjpeg decodes fewer pixels
MAX_IMAGE_PIXELS = 50_000_000
# Of a JPEG at a reduced scale; neither takes as much memory as other formats at the limit above.
_MAX_REDUCED_PIXELS = 200_000_000  # at most 3 bytes per pixel
_MAX_REDUCED_PIXELS_OF_SCANS = 100_000_000  # at most 8 bytes per pixel: libjpeg holds all coefficients
_ALLOCATION_BYTES_PER_PIXEL = 8


@cache
def load_decoders() -> None:
    """Imports Pillow's decoders and torchvision, and silences what they would print about each broken file."""
    load_transforms()
    Image.init()
    register_heif_decoder()
    tiff.extend_decoder()
    warnings.filterwarnings("ignore", module=r"PIL\.")
    logging.getLogger("PIL").setLevel(logging.CRITICAL)
    silence_libtiff()


@cache
def load_transforms() -> ModuleType:
    """Imports torchvision's transforms, which takes seconds and which not every command needs."""
    return importlib.import_module("torchvision.transforms.v2")


class EncodedImage:
    """An encoded image whose header has been read and whose format, structure and size have been checked.

    A JPEG may be reduced to fewer pixels, its shorter side never below ``shorter_side``. It may then have up to 200
    megapixels, or 100 if it has several scans, unless ``max_image_pixels`` is below its default.
    Raises ``UnsupportedFormat``, ``InvalidImage`` or ``ImageTooLarge``.
    """

    def __init__(self, data: bytes, max_image_pixels: int, shorter_side: int | None = None) -> None:
        self._data = data
        self._max_image_pixels = max_image_pixels
        self._scale = 1
        self._format = _sniff(data)
        self._segments: list[Segment] = []  # of a JPEG, up to its first scan
        size = None
        if self._format == "JPEG":
            self._segments = check_jpeg(data)
            size = read_jpeg_size(data)
        else:
            check_structure(data)
        self._image: ImageFile.ImageFile | None = None  # opened only where libjpeg-turbo does not decode it in one call
        if size is None:
            self._image = self._open(data)
            size = self._image.size
        self.size = size  # width, height
        if self._format == "JPEG" and shorter_side is not None:
            self._scale = next((scale for scale in _SCALES if min(size) >= scale * shorter_side), 1)
        if size[0] * size[1] > max_image_pixels:
            self._check_size(size, self._max_size())

    def decode(self) -> Pixels:
        """Upright RGB pixels ``(H, W, 3)`` uint8.

        The first frame of an animation counts, and transparency is laid over white. Raises ``InvalidImage``, or
        ``MemoryError`` if there is not enough memory.
        """
        try:
            if self._format == "JPEG":
                return _upright(self._decode_jpeg(), find_jpeg_orientation(self._data, self._segments))
            image = self._image or self._open(self._data)
            pixels = _load(image)
            self._check_size(image.size, self._max_image_pixels)  # a HEIC image may be larger than its header says
            if image.format == "PNG":
                check_rows(image, self._data)
            if image.format == "AVIF":
                return _upright(pixels, find_item_orientation(image, self._data))
            return _upright(pixels, find_orientation(self._data))
        except (ModelError, MemoryError):
            raise
        except Exception as error:  # Pillow's decoders raise errors of any kind on hostile bytes
            _check_memory(min(self.size[0] * self.size[1], self._max_image_pixels))
            raise self._invalid(error) from error

    def _decode_jpeg(self) -> Pixels:
        """Pixels as they are stored. What libjpeg-turbo warns of is decoded by Pillow, which tolerates more."""
        width, height = (-(-length // self._scale) for length in self.size)
        pixels = decode_jpeg(self._data, width, height) if self._image is None else None
        if pixels is not None:
            return pixels
        data = self._data
        if lacks_end_marker(data):
            completed = complete_jpeg(data)
            if completed is None:
                raise InvalidImage("The JPEG image is truncated: pixels are missing.")
            data = completed
            pixels = decode_jpeg(data, width, height) if self._image is None else None
        if pixels is not None:
            return pixels
        image = self._open(data)
        image.draft(None, (self.size[0] // self._scale, self.size[1] // self._scale))
        self._check_size(image.size, self._max_image_pixels)
        return _load(image)

    def _open(self, data: bytes) -> ImageFile.ImageFile:
        """The image in Pillow, with its header read."""
        if self._format == "TIFF":
            tiff.check_samples(data)
        elif self._format == "BMP":
            data = expand_bit_fields(data, self._max_image_pixels)
        try:
            image: ImageFile.ImageFile = Image.open(io.BytesIO(without_metadata(data)), formats=(self._format,))
            self._prepare(image, data)
        except Image.DecompressionBombError as error:
            raise ImageTooLarge(f"The image has more pixels than the limit of {self._max_image_pixels}.") from error
        except UnidentifiedImageError as error:
            raise InvalidImage(self._describe_unsupported(data)) from error
        except (ModelError, MemoryError):
            raise
        except Exception as error:  # Pillow raises errors of any kind on hostile bytes
            _check_memory(self._max_image_pixels)
            raise self._invalid(error) from error
        return image

    def _prepare(self, image: ImageFile.ImageFile, data: bytes) -> None:
        """Checks and corrects what Pillow has read of the header of ``data``."""
        self._check_size(image.size, self._max_size())
        if image.format == "TIFF":
            check_tiles(dict(tiff.read_tags(image)), image.size, self._max_image_pixels)
            tiff.prepare(image)
        elif image.format == "PNG":
            _scale_transparent_color(image, data[_PNG_BIT_DEPTH])
        elif image.format == "HEIF" and image.mode.startswith("I"):
            # pi-heif writes behind the end of a buffer if the samples are smaller than the header says.
            raise InvalidImage("The HEIF image is grayscale of more than 8 bits, which is not accepted.")

    def _describe_unsupported(self, data: bytes) -> str:
        """Why Pillow cannot open ``data``."""
        if self._format == "TIFF":
            return tiff.describe_unsupported(data)
        if self._format == "JPEG":
            return describe_unsupported(data, self._segments)
        return f"The header of the {self._format} image is broken or truncated."

    def _max_size(self) -> int:
        """The most pixels that ``_data`` may have."""
        if self._scale == 1 or self._image is not None or self._max_image_pixels < MAX_IMAGE_PIXELS:
            return self._max_image_pixels
        reduced = _MAX_REDUCED_PIXELS if is_single_scan(self._data, self._segments) else _MAX_REDUCED_PIXELS_OF_SCANS
        return max(self._max_image_pixels, reduced)

    def _check_size(self, size: tuple[int, int], limit: int) -> None:
        if size[0] * size[1] > limit:
            raise ImageTooLarge(f"The image has {size[0]}×{size[1]} pixels; the limit is {limit} in total.")

    def _invalid(self, error: Exception) -> InvalidImage:
        reason = str(error) or type(error).__name__
        if reason.startswith("decoder error"):  # all that Pillow says if libtiff fails
            reason = "its data is truncated or damaged, or its compression is not supported."
        return InvalidImage(f"The {self._format} image cannot be decoded: {reason}")


def _load(image: ImageFile.ImageFile) -> Pixels:
    """What Pillow decodes, as it is stored."""
    frame = image.tile[0].extents if image.format == "GIF" else None
    image.load()
    pixels = np.array(to_rgb(image))
    if frame is not None and frame != (0, 0, *image.size):  # Pillow fills the rest with color 0
        left, top, right, bottom = frame
        inside = pixels[top:bottom, left:right].copy()
        pixels[:] = 255
        pixels[top:bottom, left:right] = inside
    return pixels


def is_image(data: bytes) -> bool:
    """Whether ``data`` begins like an image of an accepted format."""
    try:
        _sniff(data)
    except UnsupportedFormat:
        return False
    return True


def to_rgb(image: Image.Image) -> Image.Image:
    """``image`` in mode RGB: transparency over white, 16-bit grayscale scaled to 8; ``InvalidImage`` for mode F."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode == "F":
        raise InvalidImage("Floating-point images are not accepted: their white level is unknown.")
    if image.mode.startswith("I"):  # 16 bits, held in 16 or 32
        return _grayscale_to_rgb(image)
    return _over_white(image).convert("RGB")


def _over_white(image: Image.Image) -> Image.Image:
    if image.mode == "La":  # which Pillow converts to LA only
        image = image.convert("LA")
    if image.format == "BMP" and image.mode == "RGBA" and image.getchannel("A").getextrema() == (0, 0):
        return image.convert("RGB")  # most programs that leave alpha empty mean an opaque image
    try:
        if not image.has_transparency_data:
            return image
        image = image.convert("RGBA")
    except (AssertionError, ValueError):  # no palette, or the transparent color is not in it: there is no transparency
        return image
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)


def _scale_transparent_color(image: ImageFile.ImageFile, bits: int) -> None:
    """Scales PNG's transparent color as Pillow scales the pixels: to 8 bits."""
    color = image.info.get("transparency")
    if image.mode == "L" and isinstance(color, int):
        white = (1 << bits) - 1
        image.info["transparency"] = (color & white) * 255 // white
    elif image.mode == "RGB" and isinstance(color, tuple):
        image.info["transparency"] = tuple(value >> 8 if bits == 16 else value & 255 for value in color)


def _grayscale_to_rgb(image: Image.Image) -> Image.Image:
    gray = np.asarray(image).clip(0, 65535)
    if "transparency" in image.info:
        gray = np.where(gray == image.info["transparency"], 65535, gray)
    gray = tiff.expand_gray(image, gray)
    return Image.fromarray((gray // 257).astype(np.uint8)).convert("RGB")


def _upright(pixels: Pixels, orientation: int) -> Pixels:
    """Turns pixels as EXIF's orientation 1…8 says."""
    if orientation == 1:
        return pixels
    stored = pixels.transpose(1, 0, 2) if orientation >= 5 else pixels
    if orientation in (3, 4, 7, 8):
        stored = stored[::-1]
    if orientation in (2, 3, 6, 7):
        stored = stored[:, ::-1]
    upright = np.empty(stored.shape, np.uint8)
    for channel in range(3):  # which takes a third of the time of copying all of them at once
        upright[..., channel] = stored[..., channel]
    return upright


def _sniff(data: bytes) -> str:
    """The accepted format whose signature ``data`` begins with; no decoder of another format is ever tried."""
    load_decoders()
    if not data:
        raise UnsupportedFormat("The file is empty.")
    accepted = [name for name in (*FORMATS, "HEIF") if name in Image.OPEN]
    found: str | None = find_heif_format(data)
    found = found or next((name for name in FORMATS if _has_signature(name, data[:16])), None)
    if found in accepted:
        return found
    kind = "a HEIC image" if found == "HEIF" else describe(data) or "in none of the accepted image formats"
    raise UnsupportedFormat(f"The file is {kind}; accepted are {', '.join(accepted)}.")


def _has_signature(name: str, prefix: bytes) -> bool:
    accept = Image.OPEN[name][1] if name in Image.OPEN else None
    return accept is not None and accept(prefix) is True


def _check_memory(image_pixels: int) -> None:
    """Raises ``MemoryError`` if a decoder may have failed for lack of memory; some report that as a broken image."""
    np.empty(image_pixels * _ALLOCATION_BYTES_PER_PIXEL, np.uint8)
