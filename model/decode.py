"""Encoded bytes to upright RGB pixels: JPEG through libjpeg-turbo in one call, everything else through Pillow."""

import io
import logging
import warnings
from functools import cache

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image, ImageFile, UnidentifiedImageError

from model.errors import ImageTooLarge, InvalidImage, ModelError, UnsupportedFormat
from model.image_limits import check_structure, check_tiles, read_orientation
from model.libtiff import silence_libtiff

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
Pixels = npt.NDArray[np.uint8]

_WHITE_IS_ZERO = 0  # TIFF's PhotometricInterpretation
_SCALES = (8, 4, 2)  # at which libjpeg decodes fewer pixels
_ALLOCATION_BYTES_PER_PIXEL = 8
_HEIC = (b"ftypheic", b"ftypheix", b"ftyphevc", b"ftypmif1", b"ftypmsf1")


@cache
def load_decoders() -> None:
    """Imports Pillow's decoders, and silences what they would print about each broken file."""
    Image.init()
    warnings.filterwarnings("ignore", module=r"PIL\.")
    logging.getLogger("PIL").setLevel(logging.CRITICAL)
    silence_libtiff()


class EncodedImage:
    """An encoded image whose header has been read and whose format, structure and size have been checked.

    Raises ``UnsupportedFormat``, ``InvalidImage`` or ``ImageTooLarge``.
    """

    def __init__(self, data: bytes, max_image_pixels: int) -> None:
        self._data = data
        self._formats = _sniff(data)
        check_structure(data)
        try:
            self._image: ImageFile.ImageFile = Image.open(io.BytesIO(data), formats=self._formats)
        except Image.DecompressionBombError as error:
            raise ImageTooLarge(f"The image has more pixels than the limit of {max_image_pixels}.") from error
        except UnidentifiedImageError as error:
            raise InvalidImage(f"The header of the {self._formats[0]} image is broken or truncated.") from error
        except MemoryError:
            raise
        except Exception as error:  # Pillow raises errors of any kind on hostile bytes
            _check_memory(max_image_pixels)
            raise self._invalid(error) from error
        self.size = self._image.size  # width, height
        if self.size[0] * self.size[1] > max_image_pixels:
            raise ImageTooLarge(
                f"The image has {self.size[0]}×{self.size[1]} pixels; the limit is {max_image_pixels} in total."
            )
        if self._image.format == "TIFF":
            check_tiles(dict(self._image.tag_v2), self.size, max_image_pixels)  # type: ignore[attr-defined]  # TIFF's

    def decode(self, shorter_side: int | None = None) -> Pixels:
        """Upright RGB pixels ``(H, W, 3)`` uint8; a JPEG may be reduced, its shorter side never below ``shorter_side``.

        The first frame of an animation counts, and transparency is laid over white. Raises ``InvalidImage``, or
        ``MemoryError`` if there is not enough memory.
        """
        try:
            pixels = self._decode_jpeg(shorter_side) if self._image.format in ("JPEG", "MPO") else None
            if pixels is None:
                self._image.load()
                pixels = np.array(to_rgb(self._image))
            return _upright(pixels, self._orientation())
        except (ModelError, MemoryError):
            raise
        except Exception as error:  # Pillow's decoders raise errors of any kind on hostile bytes
            _check_memory(self.size[0] * self.size[1])
            raise self._invalid(error) from error

    def _decode_jpeg(self, shorter_side: int | None) -> Pixels | None:
        """None where libjpeg-turbo reports anything unusual; Pillow then decides whether the image is usable."""
        if self._image.mode not in ("RGB", "L"):
            return None
        width, height = self.size
        scale = next((s for s in _SCALES if shorter_side is not None and min(self.size) >= s * shorter_side), 1)
        try:
            pixels: Pixels = simplejpeg.decode_jpeg(
                self._data, "RGB", min_height=-(-height // scale), min_width=-(-width // scale)
            )
        except ValueError:
            self._image.draft(None, (width // scale, height // scale))
            return None
        return pixels

    def _orientation(self) -> int:
        if self._image.format == "TIFF":
            orientation = self._image.tag_v2.get(0x0112, 1)  # type: ignore[attr-defined]  # only TIFF images have tags
            return orientation if orientation in range(1, 9) else 1
        exif = self._image.info.get("exif")
        return read_orientation(exif) if isinstance(exif, bytes) else 1

    def _invalid(self, error: Exception) -> InvalidImage:
        return InvalidImage(f"The {self._formats[0]} image cannot be decoded: {str(error) or type(error).__name__}")


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
    try:
        if not image.has_transparency_data:
            return image
        image = image.convert("RGBA")
    except (AssertionError, ValueError):  # no palette, or the transparent color is not in it: there is no transparency
        return image
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)


def _grayscale_to_rgb(image: Image.Image) -> Image.Image:
    gray = np.asarray(image).clip(0, 65535)
    if "transparency" in image.info:
        gray = np.where(gray == image.info["transparency"], 65535, gray)
    if image.format == "TIFF" and image.tag_v2.get(262) == _WHITE_IS_ZERO:  # type: ignore[attr-defined]  # TIFF's
        gray = 65535 - gray
    return Image.fromarray((gray // 257).astype(np.uint8)).convert("RGB")


def _upright(pixels: Pixels, orientation: int) -> Pixels:
    """Turns pixels as EXIF's orientation 1…8 says; a view of ``pixels``."""
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def _sniff(data: bytes) -> tuple[str, ...]:
    """The accepted formats whose signature ``data`` begins with; no decoder of another format is ever tried."""
    load_decoders()
    prefix = data[:16]
    accepted = tuple(name for name in FORMATS if name in Image.OPEN and _has_signature(name, prefix))
    if not data:
        raise UnsupportedFormat("The file is empty.")
    if not accepted and prefix[4:12] in _HEIC:
        raise UnsupportedFormat("HEIC images are not supported; convert the photo to JPEG first.")
    if not accepted:
        raise UnsupportedFormat(f"The file is in none of the accepted image formats: {', '.join(FORMATS)}.")
    return accepted


def _has_signature(name: str, prefix: bytes) -> bool:
    accept = Image.OPEN[name][1]
    return accept is not None and accept(prefix) is True


def _check_memory(image_pixels: int) -> None:
    """Raises ``MemoryError`` if a decoder may have failed for lack of memory; some report that as a broken image."""
    np.empty(image_pixels * _ALLOCATION_BYTES_PER_PIXEL, np.uint8)
