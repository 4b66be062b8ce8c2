"""The orientation of an image, as Pillow's ``exif_transpose`` finds it: in EXIF, a profile in PNG text, or XMP."""

import re
import zlib
from collections.abc import Iterable
from typing import NamedTuple

from PIL import Image

from model.images.containers import EXIF_ITEM, Chunk, Segment, png_chunks, webp_chunks
from model.images.directory import find_entry, read_bytes, read_integers

_EXIF_HEADER = b"Exif\0\0"
_XMP_HEADER = b"http://ns.adobe.com/xap/1.0/\0"
_XMP_KEY, _PROFILE_KEY, _EXIF_KEY = b"XML:com.adobe.xmp", b"Raw profile type exif", b"exif"  # of PNG text
_ORIENTATION_TAG, _XMP_TAG = 0x0112, 700
_MAX_TEXT_BYTES = 1 << 20  # of compressed text that are inflated
_APP1 = 0xE1
_XMP_PATTERN = re.compile(rb"""tiff:Orientation(?:\s*=\s*["']|\s*>)\s*([0-9])""")  # as an attribute or an element


class _Metadata(NamedTuple):
    """EXIF as a TIFF structure with or without its header, and XMP; empty where the file has none."""

    exif: bytes = b""
    xmp: bytes = b""


def find_orientation(data: bytes) -> int:
    """The orientation 1…8 as in EXIF of a PNG, WebP or TIFF file; 1 if there is none, or an invalid one."""
    if data.startswith(b"\x89PNG"):
        return _choose(_png_metadata(data))
    if data.startswith(b"RIFF"):
        return _choose(_webp_metadata(data))
    if data.startswith((b"II", b"MM")):
        entry = find_entry(data, _XMP_TAG)
        return _choose(_Metadata(data, b"" if entry is None else read_bytes(data, entry)))
    return 1


def find_jpeg_orientation(data: bytes, segments: Iterable[Segment]) -> int:
    """The orientation 1…8 of a JPEG file; ``segments`` are those up to its first scan."""
    exif, xmp = bytearray(), b""
    for marker, start, end in segments:
        if marker != _APP1:
            continue
        if data.startswith(_EXIF_HEADER, start):  # a large block is cut into several segments
            exif += data[start + len(_EXIF_HEADER) : end]
        elif data.startswith(_XMP_HEADER, start):
            xmp = data[start + len(_XMP_HEADER) : end]
    return _choose(_Metadata(bytes(exif), xmp)) if exif or xmp else 1


def find_item_orientation(image: Image.Image, data: bytes) -> int:
    """The orientation 1…8 of an AVIF image, opened from ``data`` without its EXIF item.

    The image's own properties count, from which Pillow makes EXIF; XMP counts if there is no EXIF item beside it.
    """
    exif, xmp = image.info.get("exif", b""), image.info.get("xmp", b"")
    return _choose(_Metadata(exif, b"" if EXIF_ITEM.search(data) else xmp))


def _choose(found: _Metadata) -> int:
    """XMP counts if there is no orientation in EXIF."""
    data = found.exif.removeprefix(_EXIF_HEADER).removeprefix(_EXIF_HEADER)
    entry = find_entry(data, _ORIENTATION_TAG)
    if entry is not None:
        orientation = next(iter(read_integers(data, entry)), 1)
    else:
        match = _XMP_PATTERN.search(found.xmp)
        orientation = int(match[1]) if match else 1
    return orientation if 1 <= orientation <= 8 else 1


def _webp_metadata(data: bytes) -> _Metadata:
    found: dict[bytes, bytes] = {}
    for kind, start, end in webp_chunks(data):
        if kind in (b"EXIF", b"XMP ") and kind not in found:
            found[kind] = data[start:end]
    return _Metadata(found.get(b"EXIF", b""), found.get(b"XMP ", b""))


def _png_metadata(data: bytes) -> _Metadata:
    """Chunks with a wrong checksum are left out, as by libpng."""
    exif = profile = xmp = b""
    for chunk in png_chunks(data):
        if chunk.kind == b"eXIf" and has_valid_checksum(data, chunk):
            exif = data[chunk.start : chunk.end]
        elif chunk.kind in (b"tEXt", b"zTXt", b"iTXt"):
            key, value = _read_text(data, chunk)
            if key == _EXIF_KEY and chunk.kind == b"tEXt":
                exif = value
            elif key == _PROFILE_KEY:
                profile = value
            elif key == _XMP_KEY:
                xmp = value
    return _Metadata(exif or _read_profile(profile), xmp)


def has_valid_checksum(data: bytes, chunk: Chunk) -> bool:
    """Whether the checksum of a PNG chunk is that of its content."""
    checksum = int.from_bytes(data[chunk.end : chunk.end + 4])
    return zlib.crc32(data[chunk.start - 4 : chunk.end]) == checksum


def _read_text(data: bytes, chunk: Chunk) -> tuple[bytes, bytes]:
    """Key and value of a text chunk, both empty if it says nothing of the orientation."""
    key, _, value = data[chunk.start : chunk.end].partition(b"\0")
    if key not in (_XMP_KEY, _PROFILE_KEY, _EXIF_KEY) or not has_valid_checksum(data, chunk):
        return b"", b""
    if chunk.kind == b"zTXt":
        return key, _inflate(value[1:])
    if chunk.kind == b"iTXt":
        compressed, text = value[:1] == b"\1", value[2:].split(b"\0", 2)[-1]
        return key, _inflate(text) if compressed else text
    return key, value


def _inflate(content: bytes) -> bytes:
    """The start of compressed text; empty if it is broken."""
    try:
        return zlib.decompressobj().decompress(content, _MAX_TEXT_BYTES)
    except zlib.error:
        return b""


def _read_profile(profile: bytes) -> bytes:
    """The EXIF structure in ``profile``: its name and its length on lines of their own, and hexadecimal digits."""
    try:
        return bytes.fromhex("".join(profile[:_MAX_TEXT_BYTES].decode("ascii").split("\n")[3:]))
    except ValueError:
        return b""
