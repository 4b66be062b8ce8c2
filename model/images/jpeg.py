"""JPEG images through libjpeg-turbo in one call, without Pillow's reading of the header and its copies."""

import re
import struct
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import simplejpeg

from model.images.containers import START_OF_SCAN, Segment, jpeg_scan_segments, jpeg_segments

Pixels = npt.NDArray[np.uint8]

_RGB_COLOR_SPACES = ("YCbCr", "Gray", "RGB")  # those that libjpeg converts
_END_MARKER = b"\xff\xd9"
_FRAMES = (0xC0, 0xC1, 0xC2, 0xC9, 0xCA)  # markers: Huffman or arithmetic coding, sequential or progressive
_SEQUENTIAL_FRAMES = (0xC0, 0xC1)
_PROGRESSIVE_FRAMES = (0xC2, 0xCA)
LOSSLESS_FRAMES = (0xC3, 0xCB)
_JPEG_LS_FRAME = 0xF7
_FRAME_HEADER = struct.Struct(">BHH")  # bits per sample, height and width
_COEFFICIENTS = 64
_SURPLUS = re.compile(r"(\d+) extraneous bytes before marker 0xd9")


def read_jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Width and height of a JPEG that libjpeg-turbo can decode to RGB, else None."""
    try:
        height, width, color_space, _ = simplejpeg.decode_jpeg_header(data)
    except (ValueError, KeyError):  # the latter for a subsampling that simplejpeg does not know, such as 4:4:1
        return None
    return (int(width), int(height)) if color_space in _RGB_COLOR_SPACES else None


def describe_unsupported(data: bytes, segments: Iterable[Segment]) -> str:
    """Why libjpeg cannot open a JPEG file; ``segments`` are those of ``data`` up to the first scan."""
    for marker, start, _ in segments:
        if marker == _JPEG_LS_FRAME:
            return "The image is in JPEG-LS, which is not accepted."
        if marker in _FRAMES and start + _FRAME_HEADER.size <= len(data):
            bits, height, width = _FRAME_HEADER.unpack_from(data, start)
            if bits != 8:
                return f"The JPEG image has {bits} bits per sample; accepted are 8."
            if not width or not height:
                return f"The JPEG image has {width}×{height} pixels."
    return "The header of the JPEG image is broken or truncated."


def decode_jpeg(data: bytes, min_width: int, min_height: int) -> Pixels | None:
    """RGB pixels ``(H, W, 3)``, reduced to no less than the least size; None if libjpeg-turbo warns of anything."""
    try:
        pixels: Pixels = simplejpeg.decode_jpeg(data, "RGB", min_height=min_height, min_width=min_width)
    except ValueError:
        return None
    return pixels


def is_single_scan(data: bytes, segments: Iterable[Segment]) -> bool:
    """Whether the first scan is the whole image, so that libjpeg-turbo holds a few rows of it at a time, not all.

    ``segments`` are those of ``data`` up to the first scan.
    """
    frame_components = scan_components = 0
    for marker, start, _ in segments:
        if marker in _SEQUENTIAL_FRAMES:
            frame_components = next(iter(data[start + 5 : start + 6]), 0)
        elif marker == START_OF_SCAN:
            scan_components = next(iter(data[start : start + 1]), 0)
    return 0 < frame_components == scan_components


def lacks_end_marker(data: bytes) -> bool:
    """Whether no end marker follows the header of the first scan; in a scan, the two bytes do not occur."""
    start = max((end for _, _, end in jpeg_segments(data)), default=0)
    return data.find(_END_MARKER, start) < 0


def complete_jpeg(data: bytes) -> bytes | None:
    """``data`` with its end marker instead of padding or other bytes after the last pixel; None if pixels are missing.

    With the marker in place, libjpeg-turbo warns of each pixel that it has no data for.
    """
    content = data.rstrip(b"\0")
    if content.endswith(b"\xff") and len(content) < len(data):
        content += b"\0"  # which belongs to the byte 0xFF in a scan
    for _ in range(2):
        try:
            _check_pixels(content + _END_MARKER)
        except ValueError as error:
            surplus = _SURPLUS.search(str(error))
            if surplus is None:
                return None
            content = content[: len(content) - int(surplus[1])]
        else:
            return content + _END_MARKER if _has_all_coefficients(content) else None
    return None


def _check_pixels(data: bytes) -> None:
    """Raises ``ValueError`` with libjpeg-turbo's first warning, decoding to as few pixels as possible."""
    frame = _find_frame(data)
    components = 0 if frame is None else len(_component_ids(data, frame))
    simplejpeg.decode_jpeg(data, "CMYK" if components == 4 else "RGB", min_height=1, min_width=1)


def _find_frame(data: bytes) -> Segment | None:
    return next((segment for segment in jpeg_segments(data) if segment.marker in _FRAMES), None)


def _component_ids(data: bytes, frame: Segment) -> bytes:
    return data[frame.start + 6 : frame.end : 3]


def _has_all_coefficients(data: bytes) -> bool:
    """Whether the scans of a JPEG have every coefficient of every component in full precision."""
    frame = _find_frame(data)
    if frame is None:
        return False
    missing = {component: set(range(_COEFFICIENTS)) for component in _component_ids(data, frame)}
    for marker, start, end in jpeg_scan_segments(data):
        if marker != START_OF_SCAN or end > len(data):
            continue
        first, last, precision = data[end - 3 : end]
        if frame.marker not in _PROGRESSIVE_FRAMES:
            first, last, precision = 0, _COEFFICIENTS - 1, 0
        if precision & 0x0F == 0:  # no bits are left for a later scan
            for component in data[start + 1 : end - 3 : 2]:
                missing.get(component, set()).difference_update(range(first, last + 1))
    return not any(missing.values())
