"""Bytes that mean harm: foreign formats, cut-off and flipped files, headers that announce too much."""

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
from model.preprocess import FORMATS, Transform, preprocess

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow remarks on what it skips

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
def files(make_photo, encode) -> dict[str, bytes]:
    """One small file of each format, and of each way to compress a TIFF."""
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
    """None for pixels of the right form, or the error; what is neither is raised."""
    try:
        pixels = preprocess(data, TRANSFORM, max_image_pixels=1_000_000)
    except ModelError as error:
        return type(error)
    assert (pixels.shape, pixels.dtype) == ((32, 32, 3), np.uint8)
    return None


@pytest.mark.parametrize("kind", ["PPM", "ICO", "EPS", "PCX", "TGA", "SGI", "JPEG2000", "ICNS", "DDS", "XBM", "PDF"])
def test_no_other_formats_decoder_is_tried(make_photo, encode, kind):
    image = make_photo(64, 64).convert("1") if kind == "XBM" else make_photo(64, 64)
    with pytest.raises(UnsupportedFormat, match="JPEG, PNG, WEBP, GIF, BMP, TIFF, AVIF"):
        preprocess(encode(image, kind), TRANSFORM)


def test_only_the_decoder_of_the_signature_is_tried():
    chimera = b"\0\0\x03\x20ftypavif" + struct.pack("<HHBB", 4, 4, 8, 0) + bytes(16)
    assert Image.open(io.BytesIO(chimera)).format == "TGA"  # a format without a signature
    with pytest.raises(InvalidImage, match="AVIF"):
        preprocess(chimera, TRANSFORM)


@pytest.mark.parametrize("data", [b"", b"\0", b"words", b"<svg/>", b"BN", b"\xff\xd8"])
def test_what_is_no_image_is_not_supported(data):
    assert outcome(data) is UnsupportedFormat


def test_every_file_is_an_image_to_begin_with(files):
    assert {name: outcome(data) for name, data in files.items()} == dict.fromkeys(files)


def test_a_file_cut_off_anywhere_is_an_answer_or_an_error_of_ours(files):
    for data in files.values():
        for end in {*range(0, len(data), 1 + len(data) // 40), *range(40)}:
            outcome(data[:end])


def test_half_a_file_is_an_invalid_image(files):
    assert {name: outcome(data[: len(data) // 2]) for name, data in files.items()} == dict.fromkeys(files, InvalidImage)


@pytest.mark.parametrize("kind", MAGIC)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tail=st.binary(max_size=200))
def test_random_bytes_behind_a_signature_are_no_image(kind, tail):
    assert outcome(MAGIC[kind] + tail) in {InvalidImage, ImageTooLarge, UnsupportedFormat, None}


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_flipped_bits_are_an_answer_or_an_error_of_ours(files, data):
    name = data.draw(st.sampled_from(sorted(files)))
    content = bytearray(files[name])
    head = data.draw(st.sampled_from([64, 400, len(content)]))  # headers are where the harm is
    for position in data.draw(st.lists(st.integers(0, min(head, len(content)) - 1), min_size=1, max_size=4)):
        content[position] ^= 1 << data.draw(st.integers(0, 7))
    outcome(bytes(content))


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_a_file_with_a_hole_is_an_answer_or_an_error_of_ours(files, data):
    content = files[data.draw(st.sampled_from(sorted(files)))]
    start, end = sorted(data.draw(st.tuples(*[st.integers(0, len(content))] * 2)))
    assume(start < end)
    outcome(content[:start] + content[end:])


def png(width: int, height: int, rows: bytes = b"") -> bytes:
    """A grey PNG whose header announces a size, whatever ``rows`` hold."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def announcing(width: int, height: int) -> dict[str, bytes]:
    gif = b"GIF89a" + struct.pack("<HH", width, height) + b"\0\0\0" + b"," + struct.pack("<HHHH", 0, 0, width, height)
    bmp = struct.pack("<2sIHHI", b"BM", 0, 0, 0, 54) + struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, *[0] * 6)
    jpeg = b"\xff\xd8\xff\xc0\0\x11\x08" + struct.pack(">HH", height, width) + b"\3\1\x11\0\2\x11\0\3\x11\0\xff\xda\0\2"
    return {"PNG": png(width, height), "GIF": gif + b"\0\2\0;", "BMP": bmp, "JPEG": jpeg}


@pytest.mark.parametrize("kind", ["PNG", "GIF", "BMP", "JPEG"])
def test_pixels_over_the_limit_are_refused_from_the_header(kind):
    with pytest.raises(ImageTooLarge):
        preprocess(announcing(60_000, 60_000)[kind], TRANSFORM)
    with pytest.raises(ImageTooLarge, match="1001×1000"):
        preprocess(announcing(1001, 1000)[kind], TRANSFORM, max_image_pixels=1_000_000)
    with pytest.raises(InvalidImage) as caught:  # the limit itself is admitted; then there is nothing to decode
        preprocess(announcing(1000, 1000)[kind], TRANSFORM, max_image_pixels=1_000_000)
    assert caught.type is InvalidImage


def test_a_header_of_a_hundred_thousand_squared_costs_nothing():
    tracemalloc.start()
    try:
        with pytest.raises(ImageTooLarge):
            preprocess(png(100_000, 100_000), TRANSFORM)
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("size", [(60_000, 1), (1, 60_000)])
def test_a_thread_of_pixels_does_not_become_a_giant(size):
    width, height = size
    data = png(width, height, rows=(b"\0" + bytes(width)) * height)
    with pytest.raises(ImageTooLarge, match="224"):
        preprocess(data, Transform(224))
    assert preprocess(data, Transform(224, squash=True)).shape == (224, 224, 3)


@pytest.mark.parametrize("size", [(600, 1), (1, 600), (2000, 3)])
def test_a_long_image_is_still_an_image(encode, size):
    assert preprocess(encode(Image.new("L", size, 7)), Transform(224)).max() == 7


def test_an_image_without_pixels_is_invalid():
    assert outcome(png(0, 0)) in {InvalidImage, UnsupportedFormat}
    assert outcome(announcing(0, 5)["GIF"]) is InvalidImage


def test_a_text_chunk_that_inflates_without_end_is_stopped():
    bomb = b"key\0\0" + zlib.compress(bytes(100_000_000))
    body = struct.pack(">I", len(bomb)) + b"zTXt" + bomb + struct.pack(">I", zlib.crc32(b"zTXt" + bomb))
    data = png(8, 8, rows=(b"\0" + bytes(8)) * 8)
    assert outcome(data[:33] + body + data[33:]) in {InvalidImage, None}
