"""BMP images with bit fields, of which Pillow decodes only the most common, and no alpha in 16 bits."""

from struct import Struct

import numpy as np
import numpy.typing as npt

_BIT_FIELDS, _ALPHA_BIT_FIELDS = 3, 6  # compressions; the latter has a mask of alpha whatever the size of the header
_HEADER = Struct("<2s8xIIiiHHI20x")  # the offset of the pixels, and BITMAPINFOHEADER up to its compression
_MASKS = Struct("<4I")  # of red, green, blue and alpha, which belong to the header if it is larger
_MIN_HEADER, _MIN_HEADER_WITH_ALPHA = 40, 56
_BGRX, _BGRA = (0xFF0000, 0xFF00, 0xFF, 0), (0xFF0000, 0xFF00, 0xFF, 0xFF000000)
_BLOCK = 1 << 16  # pixels


def expand_bit_fields(data: bytes, max_image_pixels: int) -> bytes:
    """``data`` with 8 bits for each color and for alpha, in the order that Pillow decodes; itself without bit fields.

    A file whose pixels are missing, or too many, is returned with fewer, for Pillow to reject it.
    """
    if len(data) < _HEADER.size + _MASKS.size:
        return data
    _, start, size, width, height, planes, bits, compression = _HEADER.unpack_from(data)
    if compression not in (_BIT_FIELDS, _ALPHA_BIT_FIELDS) or bits not in (16, 32) or size < _MIN_HEADER or width < 1:
        return data
    masks = _MASKS.unpack_from(data, _HEADER.size)
    if size < _MIN_HEADER_WITH_ALPHA and compression == _BIT_FIELDS:
        masks = (*masks[:3], 0)
    if masks in (_BGRX, _BGRA) or not any(masks):
        return data
    stored_width = -(-width * bits // 32) * 32 // bits  # each row has a multiple of 4 bytes
    rows = min(abs(height), max(0, len(data) - start) * 8 // (stored_width * bits))
    if width * abs(height) > max_image_pixels:
        rows = 0
    values = np.frombuffer(data, f"<u{bits // 8}", rows * stored_width, min(start, len(data)))
    pixels = _expand(values.reshape(rows, stored_width)[:, :width].reshape(-1), masks)
    start = _HEADER.size + _MASKS.size
    header = _HEADER.pack(b"BM", start, _MIN_HEADER_WITH_ALPHA, width, height, planes, 32, _BIT_FIELDS)
    return b"".join((header, _MASKS.pack(*(_BGRA if masks[3] else _BGRX)), pixels.data))


def _expand(values: npt.NDArray[np.unsignedinteger], masks: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    """Blue, green, red and alpha of pixels ``(N,)`` as ``(N, 4)`` uint8."""
    red, green, blue, alpha = masks
    pixels = np.zeros((len(values), 4), np.uint8)  # (N, 4) uint8
    for start in range(0, len(values), _BLOCK):
        block = values[start : start + _BLOCK].astype(np.uint64)
        for channel, mask in enumerate((blue, green, red, alpha)):
            if mask:
                shift = (mask & -mask).bit_length() - 1
                highest = mask >> shift
                pixels[start : start + _BLOCK, channel] = ((block & mask) >> shift) * 255 // highest
    return pixels
