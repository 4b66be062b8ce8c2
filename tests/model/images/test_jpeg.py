"""JPEG images without an end marker are decoded if all of their pixels are there."""

from typing import Any

import numpy as np
import pytest

from model.errors import InvalidImage
from model.images.containers import START_OF_SCAN, jpeg_scan_segments
from model.images.decode import EncodedImage
from model.images.jpeg import Pixels
from tests.conftest import Encode, MakePhoto

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
    return EncodedImage(data, 1_000_000).decode(shorter_side)


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
