"""Parts of image files that tests put together."""

import operator
import struct
import zlib

from tests.conftest import Encode, MakePhoto


def chunk(kind: bytes, content: bytes = b"", *, valid: bool = True) -> bytes:
    """A PNG chunk, with a wrong checksum if it is not ``valid``."""
    checksum = zlib.crc32(kind + content) ^ (not valid)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


def segment(marker: int, content: bytes) -> bytes:
    """A JPEG segment."""
    return bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content


def webp_chunk(kind: bytes, content: bytes) -> bytes:
    """A WebP chunk."""
    return kind + struct.pack("<I", len(content)) + content + bytes(len(content) % 2)


def directory(entries: list[tuple[int, int, int, int]], extra: bytes = b"", order: str = "<") -> bytes:
    """A TIFF or EXIF structure of one directory with (tag, type, count, value) entries, followed by ``extra``."""
    entries = sorted(entries, key=operator.itemgetter(0))
    packed = b"".join(struct.pack(f"{order}HHLL", *entry) for entry in entries)
    header = b"II*\0\x08\0\0\0" if order == "<" else b"MM\0*\0\0\0\x08"
    return header + struct.pack(f"{order}H", len(entries)) + packed + bytes(4) + extra


def extended_webp(make_photo: MakePhoto, encode: Encode, flags: int, *chunks: bytes) -> bytes:
    """A lossless WebP photo of 90×70 pixels with ``chunks`` after its frame, announced by ``flags``."""
    frame = encode(make_photo(90, 70), "WEBP", lossless=True)[12:]
    body = b"WEBP" + webp_chunk(b"VP8X", bytes([flags, 0, 0, 0, 89, 0, 0, 69, 0, 0])) + frame + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body
