"""JPEG images without an end marker are decoded if all of their pixels are there, and large ones at a reduced scale."""

import struct
from typing import Any

import numpy as np
import pytest
from PIL import Image

from model.errors import ImageTooLarge, InvalidImage
from model.images.containers import START_OF_SCAN, jpeg_scan_segments
from model.images.decode import MAX_IMAGE_PIXELS, EncodedImage
from model.images.jpeg import Pixels
from model.images.transform import Transform, preprocess
from tests.conftest import Encode, MakePhoto
from tests.model.images.files import segment

KINDS: dict[str, dict[str, Any]] = {  # Any: Pillow's options are of several types
    "sequential": {},
    "optimized": {"optimize": True},
    "progressive": {"progressive": True},
    "restart markers": {"restart_marker_blocks": 3},
    "progressive with restart markers": {"progressive": True, "restart_marker_rows": 1},
    "gray": {"mode": "L"},
    "progressive gray": {"mode": "L", "progressive": True},
    "CMYK": {"mode": "CMYK"},
    "progressive CMYK": {"mode": "CMYK", "progressive": True},
}
ENDS = {
    "nothing": b"",
    "half of the marker": b"\xff",
    "zeros": bytes(5000),
    "fill bytes": b"\xff" * 40,
    "half of the marker and zeros": b"\xff" + bytes(512),
    "words": b"appended by a camera",
}


@pytest.fixture(scope="module")
def files(make_photo: MakePhoto, encode: Encode) -> dict[str, bytes]:
    """One JPEG image of each kind."""
    found = {}
    for name, options in KINDS.items():
        options = dict(options)
        image = make_photo(121, 97).convert(options.pop("mode", "RGB"))
        found[name] = encode(image, "JPEG", quality=90, **options)
        assert found[name].endswith(b"\xff\xd9")
    return found


def decode(data: bytes, shorter_side: int | None = None) -> Pixels:
    return EncodedImage(data, 1_000_000, shorter_side).decode()


@pytest.mark.parametrize("shorter_side", [None, 20])
@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("kind", KINDS)
def test_accepts_a_jpeg_that_lacks_only_its_end_marker(
    files: dict[str, bytes], kind: str, end: str, shorter_side: int | None
) -> None:
    data = files[kind]
    assert np.array_equal(decode(data[:-2] + ENDS[end], shorter_side), decode(data, shorter_side))


@pytest.mark.parametrize("kind", KINDS)
def test_accepts_what_follows_the_end_marker(files: dict[str, bytes], kind: str) -> None:
    data = files[kind]
    for end in ENDS.values():
        assert np.array_equal(decode(data + end), decode(data))


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("kind", KINDS)
def test_rejects_a_jpeg_that_lacks_pixels(files: dict[str, bytes], kind: str, end: str) -> None:
    data = files[kind]
    scans = [segment.end for segment in jpeg_scan_segments(data) if segment.marker == START_OF_SCAN]
    cut = {len(data) - 40, len(data) * 9 // 10, len(data) // 2, scans[0] + 1}
    for length in cut:
        with pytest.raises(InvalidImage):
            decode(data[:length] + ENDS[end])


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.startswith("progressive")])
def test_rejects_a_progressive_jpeg_that_lacks_whole_scans(files: dict[str, bytes], kind: str) -> None:
    """Cut between two scans, it has no pixel without data, only less detail."""
    data = files[kind]
    scans = [segment for segment in jpeg_scan_segments(data) if segment.marker == START_OF_SCAN]
    for scan in scans[1:]:
        with pytest.raises(InvalidImage):
            decode(data[: scan.start - 4])


@pytest.mark.parametrize("kind", KINDS)
def test_a_jpeg_cut_by_a_byte_is_complete_or_rejected(files: dict[str, bytes], kind: str) -> None:
    data = files[kind]
    for length in range(len(data) - 12, len(data)):
        if length >= len(data) - 2:
            assert np.array_equal(decode(data[:length]), decode(data))
        else:
            with pytest.raises(InvalidImage):
                decode(data[:length])


def header_of(width: int, height: int, frame: int = 0xC0) -> bytes:
    """A JPEG of this size and type of frame, without pixels."""
    components = b"\3\1\x11\0\2\x11\0\3\x11\0"
    size = struct.pack(">HH", height, width)
    scan = b"\xff\xda\0\x0c\3\1\0\2\0\3\0\0\x3f\0"
    return b"\xff\xd8" + segment(frame, b"\x08" + size + components) + scan


@pytest.mark.parametrize("size", [(8192, 6144), (8688, 5792), (11_648, 8736), (16_320, 12_240)])
def test_accepts_the_sizes_of_photos_of_cameras_at_a_reduced_scale(size: tuple[int, int]) -> None:
    image = EncodedImage(header_of(*size), MAX_IMAGE_PIXELS, shorter_side=472)
    assert image.size == size


def test_decodes_a_photo_of_more_than_fifty_megapixels(encode: Encode) -> None:
    data = encode(Image.new("RGB", (8688, 5792), (10, 200, 30)), "JPEG")
    pixels = preprocess(data, Transform(236))
    assert np.abs(pixels.astype(int) - (10, 200, 30)).max() <= 3


@pytest.mark.parametrize(
    ("size", "frame", "shorter_side"),
    [
        ((20_000, 10_001), 0xC0, 472),
        ((10_001, 10_000), 0xC2, 472),  # progressive: libjpeg holds its coefficients
        ((8688, 5792), 0xC0, None),  # at full scale
        ((60_000, 900), 0xC0, 472),  # so narrow that it is decoded at full scale
    ],
)
def test_rejects_more_pixels_than_the_memory_formula_covers(
    size: tuple[int, int], frame: int, shorter_side: int | None
) -> None:
    with pytest.raises(ImageTooLarge, match=f"{size[0]}×{size[1]}"):
        EncodedImage(header_of(*size, frame), MAX_IMAGE_PIXELS, shorter_side)


def test_a_limit_below_the_default_holds_for_every_scale() -> None:
    EncodedImage(header_of(1000, 1000), 1_000_000, shorter_side=100)
    with pytest.raises(ImageTooLarge, match="1001×1000"):
        EncodedImage(header_of(1001, 1000), 1_000_000, shorter_side=100)


def test_a_limit_above_the_default_holds_for_every_format() -> None:
    EncodedImage(header_of(10_000, 11_000, 0xC2), 110_000_000, shorter_side=472)
    with pytest.raises(ImageTooLarge):
        EncodedImage(header_of(10_001, 11_000, 0xC2), 110_000_000, shorter_side=472)


@pytest.mark.parametrize("end", ["nothing", "zeros"])
def test_accepts_a_subsampling_that_has_no_common_name(encode: Encode, end: str) -> None:
    """4:4:1 has as many blocks in a unit as 4:2:0, of 8×32 instead of 16×16 pixels: its squares become stripes."""
    colors = np.array([[200, 30, 40], [20, 180, 60], [40, 50, 220], [230, 220, 20]], np.uint8)
    squares = colors.reshape(2, 2, 3).repeat(16, 0).repeat(16, 1)
    data = encode(Image.fromarray(squares), "JPEG", quality=95, subsampling="4:2:0")
    striped = data.replace(b"\3\1\x22", b"\3\1\x14")
    stripes = colors[None].repeat(8, 1).repeat(32, 0).astype(int)
    for complete in (striped, striped[:-2] + ENDS[end]):
        assert np.abs(decode(complete) - stripes).max() <= 4


@pytest.mark.parametrize("sampling", range(256))
def test_any_subsampling_has_a_size_or_is_rejected(sampling: int) -> None:
    data = header_of(400, 300).replace(b"\3\1\x11", bytes([3, 1, sampling]))
    try:
        assert EncodedImage(data, 1_000_000).size == (400, 300)
    except InvalidImage:
        assert not (1 <= sampling >> 4 <= 4 and 1 <= sampling & 15 <= 4)


@pytest.mark.parametrize(
    ("frame", "bits", "reason"),
    [
        (0xC1, 12, "12 bits"),
        (0xC3, 16, "without loss"),
        (0xCB, 8, "without loss"),
        (0xF7, 8, "JPEG-LS"),
        (0xC0, 8, "0×300"),
    ],
)
def test_says_why_a_jpeg_is_not_accepted(frame: int, bits: int, reason: str) -> None:
    data = header_of(0 if reason.startswith("0") else 400, 300, frame).replace(b"\0\x11\x08", bytes([0, 17, bits]))
    with pytest.raises(InvalidImage, match=reason):
        decode(data + b"\xff\xd9")


def test_rejects_a_lossless_jpeg_before_its_scale_is_reduced() -> None:
    header = header_of(1600, 1200, 0xC3)
    one_code = segment(0xC4, b"\0\1" + bytes(16))  # of one bit: no difference from the neighbor
    scan = segment(START_OF_SCAN, b"\3\1\0\2\0\3\0\1\0\0")  # predictor 1
    data = header[: header.index(b"\xff\xda")] + one_code + scan + bytes(1600 * 1200 * 3 // 8) + b"\xff\xd9"
    with pytest.raises(InvalidImage, match="without loss"):
        preprocess(data, Transform(236))
