"""Structural limits on encoded images, checked before any decoder sees them.

A decoder's effort follows from an image's pixels, which the pixel limit bounds, and from how often the file makes it
work without adding pixels: repeated scans, compressed text, metadata entries that point at the same large block.
All checks take time linear in the file's size.
"""

import re
import struct
from collections.abc import Iterator

from model.errors import ImageTooLarge, InvalidImage
from model.images.directory import INTEGER_TYPES, read_directory

_MAX_JPEG_SEGMENTS = 4096  # before the first scan
_MAX_JPEG_SCANS = 100
_SEQUENTIAL_FRAMES = (0xC0, 0xC1)  # JPEG markers
_START_OF_SCAN = 0xDA
_MAX_PNG_CHUNKS = 65_536
_MAX_PNG_COMPRESSED_CHUNKS = 64  # Pillow inflates each to at most 1 MiB
_MAX_GIF_EXTENSIONS = 1000  # before the first frame
_TIFF_LAYOUT_TAGS = {256, 257, 277, 278, 322, 323}  # width, length, samples per pixel, rows per strip, tile sizes
_EXIF_HEADER = b"Exif\0\0"


def check_structure(data: bytes) -> bytes:
    """Raises ``InvalidImage`` if decoding ``data`` would take far longer than its pixels justify.

    Returns the EXIF structure of a JPEG; empty if there is none, and for other formats.
    """
    if data.startswith(b"\xff\xd8"):
        return _check_jpeg(data)
    if data.startswith(b"\x89PNG"):
        _check_png(data)
    elif data.startswith(b"GIF8"):
        _check_gif(data)
    elif data.startswith((b"II", b"MM")):
        check_directory(data)
        _check_layout(data)
    return b""


def check_directory(data: bytes) -> None:
    """Raises ``InvalidImage`` if the values of a TIFF (or EXIF) directory take more bytes than twice ``data``."""
    size = sum(entry.size for entry in read_directory(data))
    if size > 2 * len(data) + 1024:
        raise InvalidImage(f"The image's metadata declares {size} bytes in a block of {len(data)}.")


def read_orientation(exif: bytes) -> int:
    """The EXIF orientation 1…8; 1 if there is none. ``exif`` is a TIFF structure, with or without its Exif header."""
    data = exif.removeprefix(_EXIF_HEADER)
    for entry in read_directory(data):
        if entry.tag == 0x0112:
            order = "<" if data.startswith(b"II") else ">"
            (orientation,) = struct.unpack(f"{order}H", entry.value[:2])
            return orientation if 1 <= orientation <= 8 else 1
    return 1


def check_tiles(tags: dict[int, object], size: tuple[int, int], max_image_pixels: int) -> None:
    """Raises ``ImageTooLarge`` if one tile or strip of a TIFF image holds more values than the whole image may."""
    samples = _number(tags.get(277), 1)  # SamplesPerPixel
    tile = _number(tags.get(322), 0) * _number(tags.get(323), 0)  # TileWidth, TileLength
    rows = min(_number(tags.get(278), 0), 2**31)  # RowsPerStrip; more means all rows
    strip = size[0] * (rows if rows < 2**31 else size[1])
    if max(tile, strip) * samples > 4 * max_image_pixels:
        raise ImageTooLarge(f"A tile or strip of the image is larger than the limit of {max_image_pixels} pixels.")


def _byte(data: bytes, position: int) -> int:
    return data[position] if position < len(data) else 0


def _number(value: object, default: int) -> int:
    return value if isinstance(value, int) else default


def _check_jpeg(data: bytes) -> bytes:
    exif = bytearray()
    components = scan_components = 0
    for segments, (marker, start, end) in enumerate(_jpeg_segments(data)):
        if segments >= _MAX_JPEG_SEGMENTS and marker != _START_OF_SCAN:
            raise InvalidImage(f"The JPEG image has more than {_MAX_JPEG_SEGMENTS} segments.")
        if marker == 0xE1 and data.startswith(_EXIF_HEADER, start):
            exif += data[start + len(_EXIF_HEADER) : end]
        elif marker in _SEQUENTIAL_FRAMES:
            components = _byte(data, start + 5)
        elif marker == _START_OF_SCAN:
            scan_components = _byte(data, start)
    check_directory(bytes(exif))
    if components and components == scan_components:
        return bytes(exif)  # the first scan is the whole image, and libjpeg accepts no other
    # The two bytes also occur by chance in data that is appended to a photo, so they are only a first, fast test.
    if data.count(b"\xff\xda") > _MAX_JPEG_SCANS and _count_scans(data) > _MAX_JPEG_SCANS:
        raise InvalidImage(f"The JPEG image has more than {_MAX_JPEG_SCANS} scans.")
    return bytes(exif)


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Marker, start and end of each segment's content up to the header of the first scan."""
    position = 2
    while position + 4 <= len(data):
        if data[position] != 0xFF:  # libjpeg skips bytes between segments
            position = data.find(b"\xff", position)
            if position < 0:
                return
            continue
        marker = data[position + 1]
        if marker in (0x00, 0x01, 0xFF) or 0xD0 <= marker <= 0xD8:
            position += 1 if marker == 0xFF else 2
            continue
        if marker == 0xD9:
            return
        end = position + 2 + int.from_bytes(data[position + 2 : position + 4])
        yield marker, position + 4, end
        if marker == _START_OF_SCAN:
            return
        position = end


def _count_scans(data: bytes) -> int:
    """Scans before the end of the image, at most one more than the limit."""
    scans = segments = 0
    position = max((end for marker, _, end in _jpeg_segments(data) if marker != _START_OF_SCAN), default=2)
    marker_pattern = re.compile(rb"\xff[\x02-\xcf\xd9-\xfe]")  # those with a length, and the end of the image
    while (match := marker_pattern.search(data, position)) and segments <= _MAX_JPEG_SEGMENTS:
        marker = data[match.start() + 1]
        if marker == 0xD9:
            break
        scans += marker == _START_OF_SCAN
        segments += 1
        if scans > _MAX_JPEG_SCANS:
            break
        position = match.end() + int.from_bytes(data[match.end() : match.end() + 2])
    return scans if segments <= _MAX_JPEG_SEGMENTS else _MAX_JPEG_SCANS + 1


def _check_png(data: bytes) -> None:
    position, chunks, compressed = 8, 0, 0
    while position + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        chunks += 1
        compressed += kind in (b"iCCP", b"zTXt", b"iTXt")
        if chunks > _MAX_PNG_CHUNKS or compressed > _MAX_PNG_COMPRESSED_CHUNKS:
            raise InvalidImage("The PNG image has too many chunks.")
        position += 12 + length


def _check_gif(data: bytes) -> None:
    if len(data) < 13:
        return
    position = 13 + (3 << (data[10] & 7) + 1 if data[10] & 0x80 else 0)
    extensions = 0
    while data[position : position + 1] == b"\x21":
        position += 2
        while position < len(data) and (length := data[position]):
            position += 1 + length
            extensions += 1
        position += 1
        if extensions > _MAX_GIF_EXTENSIONS:
            raise InvalidImage(f"The GIF image has more than {_MAX_GIF_EXTENSIONS} blocks before its first frame.")


def _check_layout(data: bytes) -> None:
    """Rejects a TIFF whose sizes are repeated or of unusual types: Pillow and libtiff would read different ones."""
    tags = set()
    for entry in read_directory(data):
        if entry.tag not in _TIFF_LAYOUT_TAGS:
            continue
        if entry.tag in tags or entry.length != 1 or entry.kind not in INTEGER_TYPES:
            raise InvalidImage(f"The TIFF image's tag {entry.tag} is not a single integer.")
        tags.add(entry.tag)
