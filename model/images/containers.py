"""Walks the parts of JPEG, PNG, GIF and WebP files without decoding them; broken ends are left to the decoders."""

import re
import struct
from collections.abc import Iterator
from typing import NamedTuple

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
START_OF_SCAN = 0xDA
_SEGMENT_OR_END = re.compile(rb"\xff[\x02-\xcf\xd9-\xfe]")  # markers that have a length, and the end of the image
MAX_GIF_BLOCKS = 32_768  # of extensions before the first frame, 8 MB if full; no more are walked
END_OF_IMAGE = 0xD9
EXIF_ITEM = re.compile(rb"(infe[\x02\x03]...(?:..|....)..)Exif", re.DOTALL)  # the entry of such an item in an AVIF file
_GIF_HEADER = 13  # bytes, before the global palette
_GIF_EXTENSION = b"\x21"


class Segment(NamedTuple):
    """A JPEG marker segment; its content is ``data[start:end]``, as far as the file has it."""

    marker: int
    start: int
    end: int


class Chunk(NamedTuple):
    """A chunk of a PNG or WebP file; its content is ``data[start:end]``, as far as the file has it."""

    kind: bytes
    start: int
    end: int


class GifExtension(NamedTuple):
    """An extension block before the first frame of a GIF file, ``data[start:end]``, of ``blocks`` sub-blocks."""

    label: int
    start: int
    end: int
    blocks: int


def jpeg_segments(data: bytes) -> Iterator[Segment]:
    """The segments of a JPEG file up to the header of the first scan."""
    position = 2
    while position + 4 <= len(data):
        if data[position] != 0xFF:  # libjpeg skips bytes between segments
            position = data.find(b"\xff", position)
            if position < 0:
                return
            continue
        marker = data[position + 1]
        if marker in (0x00, 0x01, 0xFF) or 0xD0 <= marker <= 0xD8:  # no segments
            position += 1 if marker == 0xFF else 2
            continue
        if marker == END_OF_IMAGE:
            return
        end = position + 2 + int.from_bytes(data[position + 2 : position + 4])
        yield Segment(marker, position + 4, end)
        if marker == START_OF_SCAN:
            return
        position = end


def jpeg_scan_segments(data: bytes) -> Iterator[Segment]:
    """The segments of a JPEG file from the header of the first scan to the end of the image."""
    position = max((end for marker, _, end in jpeg_segments(data) if marker != START_OF_SCAN), default=2)
    while match := _SEGMENT_OR_END.search(data, position):
        marker = data[match.start() + 1]
        if marker == END_OF_IMAGE:
            return
        position = match.end() + int.from_bytes(data[match.end() : match.end() + 2])
        yield Segment(marker, match.end() + 2, position)


def png_chunks(data: bytes) -> Iterator[Chunk]:
    """The chunks of a PNG file up to its end; each has 8 bytes before its content, and 4 after it."""
    position = len(PNG_SIGNATURE)
    while position + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        yield Chunk(kind, position + 8, position + 8 + length)
        if kind == b"IEND":
            return
        position += 12 + length


def webp_chunks(data: bytes) -> Iterator[Chunk]:
    """The chunks of a WebP file; each has 8 bytes before its content. What the header says of the size is ignored."""
    position = 12
    while position + 8 <= len(data):
        kind, length = struct.unpack_from("<4sI", data, position)
        yield Chunk(kind, position + 8, position + 8 + length)
        position += 8 + length + length % 2


def gif_extensions(data: bytes) -> Iterator[GifExtension]:
    """The extensions between the global palette of a GIF file and its first frame."""
    start = gif_palette_end(data)
    while data[start : start + 1] == _GIF_EXTENSION:
        position, blocks = start + 2, 0
        while position < len(data) and (length := data[position]) and blocks <= MAX_GIF_BLOCKS:
            position += 1 + length
            blocks += 1
        yield GifExtension(data[start + 1] if start + 1 < len(data) else 0, start, position + 1, blocks)
        start = position + 1


def gif_palette_end(data: bytes) -> int:
    """Where the global palette of a GIF file ends."""
    flags = data[10] if len(data) > 10 else 0
    return _GIF_HEADER + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
