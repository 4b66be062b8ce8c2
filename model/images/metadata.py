"""Removes the metadata that no decoder needs, which may be broken or huge."""

import struct

from model.images.containers import (
    EXIF_ITEM,
    PNG_SIGNATURE,
    START_OF_SCAN,
    gif_extensions,
    gif_palette_end,
    jpeg_segments,
    png_chunks,
    webp_chunks,
)
from model.images.directory import read_layout
from model.images.heif import find_heif_format
from model.images.orientation import has_valid_checksum

_APP0, _APP14, _COMMENT = 0xE0, 0xEE, 0xFE  # JPEG markers
_COLOR_SEGMENTS = {_APP0: (b"JFIF\0", 14), _APP14: (b"Adobe", 12)}  # that libjpeg reads, and their least sizes in bytes
_PNG_COLOR_TYPE, _PALETTE = 25, 3
_GRAPHIC_CONTROL = 0xF9  # GIF's: transparency
_GRAPHIC_CONTROL_SIZE = 4
_WEBP_FRAMES = (b"VP8 ", b"VP8L", b"ANMF")
_WEBP_KEPT = (*_WEBP_FRAMES, b"VP8X", b"ALPH", b"ANIM")
_WEBP_FLAGS = 0x12  # VP8X: alpha and animation, not profile, EXIF and XMP
_TIFF_TAGS = frozenset(
    {
        *range(254, 260),  # subfile type, size, bits, compression
        *(262, 266, 273, 277, 278, 279, 284),  # photometric interpretation, fill order, strips, samples, planes
        *(292, 293, 317, 318, 319, 320),  # fax options, predictor, chromaticities, color map
        *(322, 323, 324, 325, 326, 327, 328),  # tiles, fax lines
        *(332, 334, 338, 339, 347),  # inks, extra samples, sample format, JPEG tables
        *range(512, 522),  # old JPEG
        *(529, 530, 531, 532),  # YCbCr, reference black and white
    }
)


def without_metadata(data: bytes) -> bytes:
    """``data`` without the parts that its pixels do not depend on; ``data`` itself if it has none, or is broken."""
    if data.startswith(b"\xff\xd8"):
        return _jpeg(data)
    if data.startswith(b"\x89PNG"):
        return _png(data)
    if data.startswith(b"GIF8"):
        return _gif(data)
    if data.startswith(b"RIFF"):
        return _webp(data)
    if data.startswith((b"II", b"MM")):
        return _tiff(data)
    if data[4:8] == b"ftyp":
        return _without_exif_item(data) if find_heif_format(data) == "AVIF" else _without_descriptions(data)
    return data


def _jpeg(data: bytes) -> bytes:
    parts = [b"\xff\xd8"]
    for marker, start, end in jpeg_segments(data):
        if marker == START_OF_SCAN:
            return b"".join((*parts, data[start - 4 :]))
        if marker in _COLOR_SEGMENTS:
            prefix, size = _COLOR_SEGMENTS[marker]
            kept = data.startswith(prefix, start) and end - start >= size
        else:
            kept = marker != _COMMENT and marker >> 4 != _APP0 >> 4
        if kept:
            parts.append(data[start - 4 : end])
    return data


def _png(data: bytes) -> bytes:
    """Critical chunks and transparency; not the frames of an animation, whose first is the image itself."""
    parts = [PNG_SIGNATURE]
    has_palette = data[_PNG_COLOR_TYPE : _PNG_COLOR_TYPE + 1] == bytes([_PALETTE])
    for chunk in png_chunks(data):
        critical = chunk.kind[:1].isupper() and (chunk.kind != b"PLTE" or has_palette)
        if critical or (chunk.kind == b"tRNS" and has_valid_checksum(data, chunk)):
            parts.append(data[chunk.start - 8 : chunk.end + 4])
    return b"".join(parts)


def _gif(data: bytes) -> bytes:
    start = end = gif_palette_end(data)
    control = b""
    for extension in gif_extensions(data):
        end = extension.end
        content = data[extension.start : end]
        if extension.label == _GRAPHIC_CONTROL and content[2:3] == bytes([_GRAPHIC_CONTROL_SIZE]):
            control = content
    return data[:start] + control + data[end:]


def _webp(data: bytes) -> bytes:
    """The chunks of the first frame, with a header that fits them."""
    parts = []
    size = len(b"WEBP")
    for kind, start, end in webp_chunks(data):
        if kind not in _WEBP_KEPT:
            continue
        content = data[start:end]
        if kind == b"VP8X":
            content = bytes([content[0] & _WEBP_FLAGS]) + content[1:] if content else content
        length = end - start
        parts.append(kind + struct.pack("<I", length) + content + bytes(length % 2))
        size += 8 + length + length % 2
        if kind in _WEBP_FRAMES:
            break
    return b"".join((b"RIFF", struct.pack("<I", min(size, 2**32 - 2)), b"WEBP", *parts))


def _tiff(data: bytes) -> bytes:
    """Overwrites the first directory with its entries about pixels; there is no next one."""
    layout = read_layout(data)
    if layout is None:
        return data
    size = layout.entry.size
    entries = [data[start : start + size] for start in range(layout.start, layout.start + layout.entries * size, size)]
    kept = [entry for entry in entries if layout.entry.unpack(entry)[0] in _TIFF_TAGS]
    directory = layout.number.pack(len(kept)) + b"".join(kept) + bytes(layout.next_offset.size)
    return data[: layout.offset] + directory + data[layout.offset + len(directory) :]


def _without_exif_item(data: bytes) -> bytes:
    """Renames the type of EXIF items, so that they are ignored: an AVIF image's own properties say how it is turned."""
    return EXIF_ITEM.sub(rb"\1none", data) if b"Exif" in data else data


def _without_descriptions(data: bytes) -> bytes:
    """Renames the references by which items of a HEIC file describe an image: pi-heif crashes if a type is no text."""
    parts = []
    start = 0
    while start + 8 <= len(data):
        size, kind = struct.unpack_from(">L4s", data, start)
        if size == 1 and start + 16 <= len(data):
            (size,) = struct.unpack_from(">Q", data, start + 8)
        end = start + max(size, 8) if size else len(data)
        box = data[start:end]
        parts.append(box.replace(b"cdsc", b"none") if kind == b"meta" else box)
        start = end
    return b"".join((*parts, data[start:]))
