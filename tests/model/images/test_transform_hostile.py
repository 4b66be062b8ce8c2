"""Malicious and damaged uploads: other formats, truncated and corrupted files, headers with too many pixels."""

import contextlib
import io
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from model.errors import ImageTooLarge, InvalidImage, ModelError, UnsupportedFormat
from model.images.decode import FORMATS
from model.images.transform import Transform, preprocess
from tests.conftest import Encode, MakePhoto
from tests.model.images.files import chunk, directory

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow warns about data that it skips

TRANSFORM = Transform(36, 32)
MAGIC = {
    "JPEG": b"\xff\xd8\xff\xe0\0\x10JFIF\0",
    "PNG": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
    "WEBP": b"RIFF\x40\0\0\0WEBPVP8 ",
    "GIF": b"GIF89a",
    "BMP": b"BM\x46\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0",
    "TIFF": b"II*\0\x08\0\0\0",
    "AVIF": b"\0\0\0 ftypavif\0\0\0\0avifmif1miaf",
}


@pytest.fixture(scope="module")
def files(make_photo: MakePhoto, encode: Encode) -> dict[str, bytes]:
    """One small file of each format and variant."""
    found = {kind: encode(make_photo(61, 47), kind) for kind in FORMATS}
    found |= {
        f"TIFF {compression}": encode(make_photo(61, 47), "TIFF", compression=compression)
        for compression in ("tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits")
    }
    found["progressive JPEG"] = encode(make_photo(61, 47), "JPEG", progressive=True)
    found["palette PNG"] = encode(make_photo(61, 47).convert("P"), "PNG")
    found["interlaced GIF"] = encode(make_photo(61, 47), "GIF", interlace=1)
    found["lossless WEBP"] = encode(make_photo(61, 47), "WEBP", lossless=True)
    return found


def outcome(data: bytes) -> type[ModelError] | None:
    """Returns None for valid pixels, or the type of the error; any other exception is raised."""
    try:
        pixels = preprocess(data, TRANSFORM, max_image_pixels=1_000_000)
    except ModelError as error:
        return type(error)
    assert pixels.shape == (32, 32, 3)
    assert pixels.dtype == np.uint8
    return None


@pytest.mark.parametrize("kind", ["PPM", "ICO", "EPS", "PCX", "TGA", "SGI", "JPEG2000", "ICNS", "DDS", "XBM", "PDF"])
def test_rejects_other_formats(make_photo: MakePhoto, encode: Encode, kind: str) -> None:
    image = make_photo(64, 64).convert("1") if kind == "XBM" else make_photo(64, 64)
    with pytest.raises(UnsupportedFormat, match="JPEG, PNG, WEBP, GIF, BMP, TIFF, AVIF"):
        preprocess(encode(image, kind), TRANSFORM)


def test_only_the_decoder_of_the_signature_is_tried() -> None:
    data = b"\0\0\x03\x20ftypavif" + struct.pack("<HHBB", 4, 4, 8, 0) + bytes(16)
    assert Image.open(io.BytesIO(data)).format == "TGA"  # a format without a signature
    with pytest.raises(InvalidImage, match="AVIF"):
        preprocess(data, TRANSFORM)


@pytest.mark.parametrize("data", [b"", b"\0", b"words", b"<svg/>", b"BN", b"\xff\xd8"])
def test_rejects_data_that_is_no_image(data: bytes) -> None:
    assert outcome(data) is UnsupportedFormat


def test_accepts_the_undamaged_files(files: dict[str, bytes]) -> None:
    assert {name: outcome(data) for name, data in files.items()} == dict.fromkeys(files)


def test_a_file_truncated_anywhere_returns_pixels_or_a_model_error(files: dict[str, bytes]) -> None:
    for data in files.values():
        for end in {*range(0, len(data), 1 + len(data) // 40), *range(40)}:
            outcome(data[:end])


def test_half_a_file_is_an_invalid_image(files: dict[str, bytes]) -> None:
    assert {name: outcome(data[: len(data) // 2]) for name, data in files.items()} == dict.fromkeys(files, InvalidImage)


@pytest.mark.parametrize("kind", MAGIC)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tail=st.binary(max_size=200))
def test_random_bytes_after_a_signature_return_pixels_or_a_model_error(kind: str, tail: bytes) -> None:
    assert outcome(MAGIC[kind] + tail) in {InvalidImage, ImageTooLarge, UnsupportedFormat, None}


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_flipped_bits_return_pixels_or_a_model_error(files: dict[str, bytes], data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(files)))
    content = bytearray(files[name])
    end = data.draw(st.sampled_from([64, 400, len(content)]))  # mostly in the headers
    for position in data.draw(st.lists(st.integers(0, min(end, len(content)) - 1), min_size=1, max_size=4)):
        content[position] ^= 1 << data.draw(st.integers(0, 7))
    outcome(bytes(content))


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_a_file_with_a_missing_part_returns_pixels_or_a_model_error(
    files: dict[str, bytes], data: st.DataObject
) -> None:
    content = files[data.draw(st.sampled_from(sorted(files)))]
    start, end = sorted(data.draw(st.tuples(*[st.integers(0, len(content))] * 2)))
    assume(start < end)
    outcome(content[:start] + content[end:])


def png(width: int, height: int, rows: bytes = b"") -> bytes:
    """Returns a grey PNG image with this size in its header and ``rows`` as its data."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND")


def headers_of_size(width: int, height: int) -> dict[str, bytes]:
    """Returns files of several formats with this size in their header and no pixels."""
    gif = b"GIF89a" + struct.pack("<HH", width, height) + b"\0\0\0" + b"," + struct.pack("<HHHH", 0, 0, width, height)
    bmp = struct.pack("<2sIHHI", b"BM", 0, 0, 0, 54) + struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, *[0] * 6)
    jpeg = b"\xff\xd8\xff\xc0\0\x11\x08" + struct.pack(">HH", height, width) + b"\3\1\x11\0\2\x11\0\3\x11\0\xff\xda\0\2"
    return {"PNG": png(width, height), "GIF": gif + b"\0\2\0;", "BMP": bmp, "JPEG": jpeg}


@pytest.mark.parametrize("kind", ["PNG", "GIF", "BMP", "JPEG"])
def test_rejects_pixels_over_the_limit_from_the_header(kind: str) -> None:
    with pytest.raises(ImageTooLarge):
        preprocess(headers_of_size(60_000, 60_000)[kind], TRANSFORM)
    with pytest.raises(ImageTooLarge, match="1001×1000"):
        preprocess(headers_of_size(1001, 1000)[kind], TRANSFORM, max_image_pixels=1_000_000)
    with pytest.raises(InvalidImage) as caught:  # within the limit, but without data
        preprocess(headers_of_size(1000, 1000)[kind], TRANSFORM, max_image_pixels=1_000_000)
    assert caught.type is InvalidImage


def test_rejects_ten_billion_pixels_without_allocating_them() -> None:
    tracemalloc.start()
    try:
        with pytest.raises(ImageTooLarge):
            preprocess(png(100_000, 100_000), TRANSFORM)
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("size", [(60_000, 1), (1, 60_000)])
def test_rejects_a_narrow_image_that_would_be_resized_over_the_limit(size: tuple[int, int]) -> None:
    width, height = size
    data = png(width, height, rows=(b"\0" + bytes(width)) * height)
    with pytest.raises(ImageTooLarge, match="224"):
        preprocess(data, Transform(224))
    assert preprocess(data, Transform(224, squash=True)).shape == (224, 224, 3)


@pytest.mark.parametrize("size", [(600, 1), (1, 600), (2000, 3)])
def test_accepts_long_and_narrow_images(encode: Encode, size: tuple[int, int]) -> None:
    assert preprocess(encode(Image.new("L", size, 7)), Transform(224)).max() == 7


def test_rejects_images_without_pixels() -> None:
    assert outcome(png(0, 0)) in {InvalidImage, UnsupportedFormat}
    assert outcome(headers_of_size(0, 5)["GIF"]) is InvalidImage


def test_a_text_chunk_that_inflates_to_100_mb_is_not_decompressed_completely() -> None:
    text = chunk(b"zTXt", b"key\0\0" + zlib.compress(bytes(100_000_000)))
    data = png(8, 8, rows=(b"\0" + bytes(8)) * 8)
    assert outcome(data[:33] + text + data[33:]) in {InvalidImage, None}


@pytest.mark.parametrize("length", [0, 1, 2, 3, 4, 5, 1000])
@pytest.mark.parametrize("kind", [*range(14), 16, 17, 18, 1000])
@pytest.mark.parametrize("tag", [258, 259, 262, 266, 277, 284, 317, 320, 338, 339, 530])
def test_a_tiff_tag_of_any_type_and_length_returns_pixels_or_a_model_error(tag: int, kind: int, length: int) -> None:
    rows = bytes(range(250)) * 10
    layout = [(256, 4, 1, 50), (257, 4, 1, 50), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (277, 3, 1, 1)]
    layout += [(278, 4, 1, 50), (279, 4, 1, len(rows))]
    entries = [*(entry for entry in layout if entry[0] != tag), (tag, kind, length, 1)]
    start = len(directory([*entries, (273, 4, 1, 0)]))
    with contextlib.suppress(ModelError):
        preprocess(directory([*entries, (273, 4, 1, start)], rows), TRANSFORM)
