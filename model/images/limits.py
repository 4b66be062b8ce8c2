"""Structural limits on encoded images, checked before any decoder sees them.

A decoder's effort follows from an image's pixels, which the pixel limit bounds, and from how often the file makes it
work without adding pixels: repeated scans, thousands of chunks, metadata entries that point at the same large block.
All checks take time linear in the file's size.
"""

from itertools import islice

from model.errors import ImageTooLarge, InvalidImage
from model.images.containers import (
    MAX_GIF_BLOCKS,
    START_OF_SCAN,
    Segment,
    gif_extensions,
    jpeg_scan_segments,
    jpeg_segments,
    png_chunks,
    webp_chunks,
)
from model.images.directory import INTEGER_TYPES, MAX_ENTRIES, read_directory
from model.images.jpeg import LOSSLESS_FRAMES, is_single_scan

_MAX_JPEG_SEGMENTS = 4096  # before the first scan
_MAX_JPEG_SCANS = 100
_APP1 = 0xE1
_MAX_CHUNKS = 65_536  # of a PNG or WebP file
_MAX_PNG_COMPRESSED_CHUNKS = 64
_MAX_METADATA_BYTES = 100_000_000  # that the entries of one directory declare
_BMP_COMPRESSION = 30  # its position in a BMP file
_RUN_LENGTHS = (b"\1\0\0\0", b"\2\0\0\0")
_MAX_RUN_LENGTH_BYTES = 4_000_000
_TIFF_LAYOUT_TAGS = {256, 257, 262, 277, 278, 322, 323}  # sizes, photometric interpretation, samples per pixel, rows
_EXIF_HEADER = b"Exif\0\0"


def check_structure(data: bytes) -> None:
    """Raises ``InvalidImage`` if decoding ``data`` would take far longer than its pixels justify."""
    if data.startswith(b"\xff\xd8"):
        check_jpeg(data)
    elif data.startswith(b"\x89PNG"):
        _check_png(data)
    elif data.startswith(b"GIF8"):
        _check_gif(data)
    elif data.startswith(b"RIFF"):
        _check_webp(data)
    elif data.startswith(b"BM"):
        _check_bmp(data)
    elif data.startswith((b"II", b"MM")):
        check_directory(data)
        _check_layout(data)


def check_directory(data: bytes) -> None:
    """Raises ``InvalidImage`` for a TIFF (or EXIF) directory of very many entries that each declare a large block.

    A single entry of absurd size is no reason: what ``data`` does not have cannot be read.
    """
    if MAX_ENTRIES * len(data) <= _MAX_METADATA_BYTES:
        return
    size = sum(min(entry.size, len(data)) for entry in read_directory(data))
    if size > _MAX_METADATA_BYTES:
        raise InvalidImage(f"The image's metadata declares {size} bytes; the limit is {_MAX_METADATA_BYTES}.")


def check_tiles(tags: dict[int, object], size: tuple[int, int], max_image_pixels: int) -> None:
    """Raises ``ImageTooLarge`` if one tile or strip of a TIFF image holds more values than the whole image may."""
    samples = _number(tags.get(277), 1)  # SamplesPerPixel
    tile = _number(tags.get(322), 0) * _number(tags.get(323), 0)  # TileWidth, TileLength
    rows = min(_number(tags.get(278), 0), 2**31)  # RowsPerStrip; more means all rows
    strip = size[0] * (rows if rows < 2**31 else size[1])
    if max(tile, strip) * samples > 4 * max_image_pixels:
        raise ImageTooLarge(f"A tile or strip of the image is larger than the limit of {max_image_pixels} pixels.")


def _number(value: object, default: int) -> int:
    return value if isinstance(value, int) else default


def check_jpeg(data: bytes) -> list[Segment]:
    """``check_structure`` of a JPEG; returns its segments up to the first scan."""
    segments = list(islice(jpeg_segments(data), _MAX_JPEG_SEGMENTS + 1))
    if len(segments) > _MAX_JPEG_SEGMENTS:
        raise InvalidImage(f"The JPEG image has more than {_MAX_JPEG_SEGMENTS} segments.")
    if any(segment.marker in LOSSLESS_FRAMES for segment in segments):
        # libjpeg-turbo does not reduce their scale: simplejpeg would write behind the end of the smaller image.
        raise InvalidImage("The JPEG image is compressed without loss, which is not accepted.")
    exif = [
        data[start:end] for marker, start, end in segments if marker == _APP1 and data.startswith(_EXIF_HEADER, start)
    ]
    if exif:
        check_directory(b"".join(part.removeprefix(_EXIF_HEADER) for part in exif))
    if is_single_scan(data, segments):
        return segments  # libjpeg accepts no scan after it
    # The two bytes also occur by chance in data that is appended to a photo, so they are only a first, fast test.
    if data.count(b"\xff\xda") > _MAX_JPEG_SCANS and _has_too_many_scans(data):
        raise InvalidImage(f"The JPEG image has more than {_MAX_JPEG_SCANS} scans.")
    return segments


def _has_too_many_scans(data: bytes) -> bool:
    scans = 0
    for segments, segment in enumerate(jpeg_scan_segments(data)):
        scans += segment.marker == START_OF_SCAN
        if scans > _MAX_JPEG_SCANS or segments >= _MAX_JPEG_SEGMENTS:
            return True
    return False


def _check_png(data: bytes) -> None:
    compressed = 0
    for number, chunk in enumerate(png_chunks(data), 1):
        compressed += chunk.kind in (b"iCCP", b"zTXt", b"iTXt")
        if number > _MAX_CHUNKS or compressed > _MAX_PNG_COMPRESSED_CHUNKS:
            raise InvalidImage(
                f"The PNG image has more than {_MAX_CHUNKS} chunks, or {_MAX_PNG_COMPRESSED_CHUNKS} of compressed text."
            )


def _check_webp(data: bytes) -> None:
    for number, _ in enumerate(webp_chunks(data), 1):
        if number > _MAX_CHUNKS:
            raise InvalidImage(f"The WEBP image has more than {_MAX_CHUNKS} chunks.")


def _check_bmp(data: bytes) -> None:
    """Pillow decodes run lengths in Python, one after the other."""
    if data[_BMP_COMPRESSION : _BMP_COMPRESSION + 4] in _RUN_LENGTHS and len(data) > _MAX_RUN_LENGTH_BYTES:
        raise InvalidImage(
            f"The BMP image has {len(data)} bytes of run lengths; the limit is {_MAX_RUN_LENGTH_BYTES}, or any size"
            " without compression."
        )


def _check_gif(data: bytes) -> None:
    blocks = 0
    for extension in gif_extensions(data):
        blocks += 1 + extension.blocks
        if blocks > MAX_GIF_BLOCKS:
            raise InvalidImage(f"The GIF image has more than {MAX_GIF_BLOCKS} blocks before its first frame.")


def _check_layout(data: bytes) -> None:
    """Rejects a TIFF whose layout is repeated or of unusual types: Pillow and libtiff would read different ones."""
    tags = set()
    for entry in read_directory(data):
        if entry.tag not in _TIFF_LAYOUT_TAGS:
            continue
        if entry.tag in tags or entry.length != 1 or entry.kind not in INTEGER_TYPES:
            raise InvalidImage(f"The TIFF image's tag {entry.tag} is not a single integer.")
        tags.add(entry.tag)
