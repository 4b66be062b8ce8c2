"""Kinds of TIFF images that Pillow decodes to wrong pixels without an error: they are corrected or rejected."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile, ImagePalette, TiffImagePlugin

from model.errors import InvalidImage
from model.images.directory import read_tag_integers

Levels = npt.NDArray[np.integer]

_BITS, _PHOTOMETRIC, _PLANES, _COLOR_MAP, _SAMPLE_FORMAT = 258, 262, 284, 320, 339  # tags
_DESCRIBED = {_BITS: "bits per sample", 259: "compression", _PHOTOMETRIC: "photometric interpretation"}
_SAMPLE_FORMATS = {2: "signed integers", 3: "floating-point numbers", 5: "complex integers", 6: "complex numbers"}
_MAX_BITS = 16
_SEPARATE = 2
_WHITE_IS_ZERO = 0
_Layout = tuple[bytes, int, tuple[int], int, tuple[int, ...], tuple[int, ...]]
_BIG_ENDIAN_GRAY: dict[
    _Layout, tuple[str, str]
] = {  # that Pillow only opens in the other byte order: 16 bits in which white is 0, and 12 bits
    (b"MM", 0, (1,), 1, (16,), ()): ("I;16B", "I;16B"),
    (b"MM", 1, (1,), 1, (12,), ()): ("I;16", "I;12"),
}
_SEPARATE_PLANES = ("1", "L", "P", "I;16", "I;16B", "RGB", "RGBA", "CMYK")  # modes whose planes Pillow puts together
_ACCEPTED = (
    "accepted are grayscale (1, 2, 4, 8, 12 and 16 bits), palettes (up to 8 bits), and RGB, RGBA, CMYK (8 and 16 bits),"
    " YCbCr and L*a*b* (8 bits) of unsigned integers."
)


def extend_decoder() -> None:
    """Has libtiff decode uncompressed files, too: Pillow's own code mixes up the bytes of separate 16-bit planes."""
    TiffImagePlugin.READ_LIBTIFF = True
    TiffImagePlugin.OPEN_INFO.update(_BIG_ENDIAN_GRAY)


def check_samples(data: bytes) -> None:
    """Raises ``InvalidImage`` if the range of a TIFF image's values, and so its white level, is unknown."""
    found = read_tag_integers(data)
    for sample_format in found.get(_SAMPLE_FORMAT, ()):
        if kind := _SAMPLE_FORMATS.get(sample_format):
            raise InvalidImage(f"The TIFF image's values are {kind}, whose white level is unknown; {_ACCEPTED}")
    if (bits := max(found.get(_BITS, ()), default=1)) > _MAX_BITS:
        raise InvalidImage(f"The TIFF image has {bits} bits per sample; {_ACCEPTED}")


def describe_unsupported(data: bytes) -> str:
    """Why Pillow cannot open a TIFF file, as far as its directory can be read."""
    if data.startswith(b"MM\0\x2b"):
        return "The image is a big-endian BigTIFF; accepted are little-endian BigTIFF and both byte orders of TIFF."
    found = read_tag_integers(data)
    if not found:
        return "The header of the TIFF image is broken or truncated."
    values = [f"{name} {', '.join(map(str, found.get(tag, ())))}" for tag, name in _DESCRIBED.items()]
    return f"The TIFF image has {', '.join(values)}; {_ACCEPTED}"


def prepare(image: ImageFile.ImageFile) -> None:
    """Corrects a TIFF image that is open but not loaded. Raises ``InvalidImage`` for planes that would be mixed up."""
    tags = read_tags(image)
    if tags.get(_PLANES, 1) == _SEPARATE and image.mode not in _SEPARATE_PLANES:
        raise InvalidImage(f"The TIFF image has separate planes of mode {image.mode}; accepted is one plane.")
    colors = tags.get(_COLOR_MAP)
    if image.mode == "P" and isinstance(colors, tuple) and max(colors, default=0) < 256:
        image.palette = ImagePalette.raw("RGB;L", bytes(colors))  # of 8 instead of 16 bits, as libtiff assumes, too


def expand_gray(image: Image.Image, levels: Levels) -> Levels:
    """The ``levels`` of a TIFF image in mode I;16 from 0, black, to 65535, white."""
    tags = read_tags(image)
    if tags.get(_BITS) == (12,):
        levels = levels * 16 + levels // 256
    return 65535 - levels if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO else levels


def read_tags(image: Image.Image) -> Mapping[int, object]:
    """The tags of a TIFF image; empty for others."""
    return image.tag_v2 if isinstance(image, TiffImagePlugin.TiffImageFile) else {}
