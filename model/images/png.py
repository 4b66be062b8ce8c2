"""PNG images that end before their last row, which Pillow leaves black without an error."""

import struct
import zlib

import numpy as np
from PIL import Image

from model.errors import InvalidImage
from model.images.containers import png_chunks

_HEADER = struct.Struct(">IIBB2xB")  # width, height, bits per sample, color type and interlacing
_HEADER_START = 16
_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # per pixel, by color type
_ONE_PASS = ((0, 0, 1, 1),)
_SEVEN_PASSES = (  # of Adam7: the first column and row of each, and the steps to the next ones
    *((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4)),
    *((0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)),
)
_PART = 1 << 18  # bytes


def check_rows(image: Image.Image, data: bytes) -> None:
    """Raises ``InvalidImage`` if rows of a PNG image, loaded from ``data``, are missing.

    They are counted only if they may be: a missing row is zero in every sample.
    """
    last_row = image.crop((0, image.height - 1, image.width, image.height))
    if (image.info.get("interlace") or not np.asarray(last_row).any()) and not _has_all_rows(data):
        raise InvalidImage("The PNG image is truncated: rows are missing.")


def _has_all_rows(data: bytes) -> bool:
    width, height, bits, color_type, interlacing = _HEADER.unpack_from(data, _HEADER_START)
    missing = 0
    for left, top, step_x, step_y in _SEVEN_PASSES if interlacing else _ONE_PASS:
        columns, rows = -((left - width) // step_x), -((top - height) // step_y)
        if columns > 0 and rows > 0:
            missing += rows * (1 + (columns * bits * _SAMPLES[color_type] + 7) // 8)
    stream = zlib.decompressobj()
    for kind, start, end in png_chunks(data):
        rest = data[start:end] if kind == b"IDAT" else b""
        while rest and missing > 0:
            missing -= len(stream.decompress(rest, _PART))
            rest = stream.unconsumed_tail
    return missing <= 0 or missing <= len(stream.flush())
