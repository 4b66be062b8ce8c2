"""Files that would take a decoder far longer than their number of pixels justifies."""

import io
import os
import struct
import subprocess
import sys
import time
import tracemalloc
import zlib
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from model.errors import ImageTooLarge, InvalidImage, ModelError
from model.images.decode import EncodedImage, load_decoders
from model.images.limits import check_structure, check_tiles
from model.images.transform import Transform, preprocess
from tests.conftest import Encode, MakePhoto
from tests.model.images.files import chunk, directory, segment

TRANSFORM = Transform(36, 32)
LIMIT_S = 3.0  # for a file that takes minutes without the limits
SIZE = 20_000_000  # bytes, the default upload limit


def png_with(chunks: bytes, encode: Encode) -> bytes:
    """Returns a small PNG image with ``chunks`` after its header."""
    data = encode(Image.new("RGB", (8, 8)))
    return data[:33] + chunks + data[33:]


def rejected_quickly(data: bytes, error: type[ModelError] = InvalidImage) -> None:
    """Asserts that ``data`` is rejected within ``LIMIT_S`` and 400 MB."""
    load_decoders()
    tracemalloc.start()
    started_at = time.thread_time()  # the machine may be busy with other tests
    with pytest.raises(error) as caught:
        preprocess(data, TRANSFORM)
    elapsed_s = time.thread_time() - started_at
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert str(caught.value)
    assert elapsed_s < LIMIT_S
    assert peak < 400_000_000


@pytest.mark.parametrize("marker", [b"", b"\xff\x01", b"\xff\xd0"], ids=["none", "TEM", "RST0"])
def test_rejects_a_progressive_jpeg_with_thousands_of_scans(
    make_photo: MakePhoto, encode: Encode, marker: bytes
) -> None:
    """Markers without a length, which libjpeg skips, hide no scan."""
    data = encode(make_photo(64, 64), "JPEG", progressive=True)
    first = data.index(b"\xff\xda")
    second = data.index(b"\xff", first + 2 + 10)
    while data[second + 1] in (0x00, *range(0xD0, 0xD8)):
        second = data.index(b"\xff", second + 2)
    rejected_quickly(data[:second] + (marker + data[first:second]) * 5000 + data[second:])


def test_rejects_a_sequential_jpeg_whose_scan_is_repeated(make_photo: MakePhoto, encode: Encode) -> None:
    """The whole image is in its first scan, after which libjpeg accepts no other; scans are not counted there."""
    data = encode(make_photo(64, 64), "JPEG")
    scan = data[data.index(b"\xff\xda") : -2]
    rejected_quickly(data[:-2] + scan * 5000 + data[-2:])


def test_rejects_a_sequential_jpeg_with_thousands_of_partial_scans(make_photo: MakePhoto, encode: Encode) -> None:
    """Each scan holds one of the components."""
    data = encode(make_photo(64, 64), "JPEG")
    start = data.index(b"\xff\xda")
    scan = b"\xff\xda\0\x08\x01\x01\0\0\x3f\0" + data[start + 14 : -2]
    rejected_quickly(data[:start] + scan * 5000 + data[-2:])


def test_accepts_a_photo_with_a_video_appended(make_photo: MakePhoto, encode: Encode) -> None:
    video = os.urandom(200_000) + b"\xff\xda" * 1000
    data = encode(make_photo(64, 64), "JPEG")
    assert np.array_equal(preprocess(data + video, TRANSFORM), preprocess(data, TRANSFORM))


def test_rejects_a_jpeg_with_millions_of_comments(encode: Encode) -> None:
    data = encode(Image.new("RGB", (8, 8)), "JPEG")
    rejected_quickly(data[:2] + b"\xff\xfe\0\2" * (SIZE // 4) + data[2:])


def test_rejects_exif_entries_that_repeat_a_large_block(encode: Encode) -> None:
    """Pillow would copy the block once per entry."""
    block = directory([(tag, 7, 60_000, 8) for tag in range(4000)], bytes(10_000))
    data = encode(Image.new("RGB", (8, 8)), "JPEG")
    segments = b""
    for start in range(0, len(block), 60_000):
        segments += segment(0xE1, b"Exif\0\0" + block[start : start + 60_000])
    rejected_quickly(data[:2] + segments + data[2:])


@pytest.mark.parametrize("kind", ["zTXt", "iTXt", "iCCP"])
def test_rejects_a_png_with_thousands_of_compressed_chunks(encode: Encode, kind: str) -> None:
    text = zlib.compress(bytes(1_000_000), 9)
    prefix = {"zTXt": b"a\0\0", "iTXt": b"a\0\1\0\0\0", "iCCP": b"a\0\0"}[kind]
    one_chunk = chunk(kind.encode(), prefix + text)
    rejected_quickly(png_with(one_chunk * (SIZE // len(one_chunk)), encode))


@pytest.mark.parametrize("kind", ["zTXt", "iTXt", "iCCP"])
def test_compressed_chunks_are_counted_however_small_they_are(encode: Encode, kind: str) -> None:
    check_structure(png_with(chunk(kind.encode()) * 64, encode))
    with pytest.raises(InvalidImage, match="chunks"):
        check_structure(png_with(chunk(kind.encode()) * 65, encode))


def test_rejects_a_png_with_millions_of_chunks(encode: Encode) -> None:
    rejected_quickly(png_with(chunk(b"tEXt", b"a\0") * (SIZE // 14), encode))


def test_rejects_a_gif_with_megabytes_of_comments(encode: Encode) -> None:
    data = encode(Image.new("P", (8, 8)), "GIF")
    start = 13 + 3 * (2 << (data[10] & 7)) if data[10] & 0x80 else 13
    comment = b"\x21\xfe" + (b"\xff" + b"a" * 255) * (SIZE // 256) + b"\0"
    rejected_quickly(data[:start] + comment + data[start:])


@pytest.mark.parametrize("block", [b"\x21\xfe\1a\0", b"\x21\xfe\0"], ids=["a byte", "empty"])
def test_rejects_a_gif_with_millions_of_small_blocks(encode: Encode, block: bytes) -> None:
    data = encode(Image.new("P", (8, 8)), "GIF")
    start = data.index(b",")
    rejected_quickly(data[:start] + block * (SIZE // len(block)) + data[start:])
    rejected_quickly(data[:start] + b"\x21\xfe" + b"\1a" * (SIZE // 2) + b"\0" + data[start:])


def test_rejects_a_webp_with_millions_of_chunks(encode: Encode) -> None:
    data = encode(Image.new("RGB", (8, 8)), "WEBP")
    header = b"VP8X\x0a\0\0\0" + bytes([0, 0, 0, 0, 7, 0, 0, 7, 0, 0])
    rejected_quickly(data[:12] + header + b"abcd\0\0\0\0" * (SIZE // 8) + data[12:])


def test_only_the_first_entries_of_a_bigtiff_are_read() -> None:
    entries = struct.pack("<HHQQ", 65_000, 7, 1, 8) * (SIZE // 20)
    rejected_quickly(b"II+\0\x08\0\0\0" + struct.pack("<QQ", 16, SIZE // 20) + entries + bytes(8))


@pytest.mark.parametrize("compression", [1, 2])
def test_rejects_a_bmp_with_megabytes_of_run_lengths(compression: int) -> None:
    fields = struct.pack("<IiiHHIIiiII", 40, 3000, 3000, 1, 8 // compression, compression, 0, 0, 0, 0, 0)
    data = b"BM" + struct.pack("<IHHI", 0, 0, 0, 54 + 1024) + fields + bytes(range(256)) * 4 + b"\1\7" * (SIZE // 2)
    rejected_quickly(data)
    with pytest.raises(InvalidImage, match="not enough image data"):
        preprocess(data[:100_000], TRANSFORM)


TINY_TIFF = [(256, 4, 1, 1), (257, 4, 1, 1), (258, 3, 1, 8), (259, 3, 1, 5), (262, 3, 1, 1), (277, 3, 1, 1)]
TILES = [(322, 4, 1, 32768), (323, 4, 1, 16384), (324, 4, 1, 8), (325, 4, 1, 100)]  # 537 million pixels
STRIPS = [(273, 4, 1, 8), (278, 4, 1, 16384), (279, 4, 1, 100)]


@pytest.mark.parametrize(
    "entries", [TINY_TIFF + TILES, [(256, 4, 1, 32768), *TINY_TIFF[1:], *STRIPS]], ids=["tile", "strip"]
)
def test_rejects_a_tiff_tile_or_strip_over_the_pixel_limit(entries: list[tuple[int, int, int, int]]) -> None:
    rejected_quickly(directory(entries, bytes(200)), ImageTooLarge)


@pytest.mark.parametrize(("samples", "error"), [(1, None), (4, ImageTooLarge)])
def test_every_sample_of_a_tiff_tile_counts(samples: int, error: type[ModelError] | None) -> None:
    tags = {277: samples, 322: 1000, 323: 1500}
    with pytest.raises(error) if error else nullcontext():
        check_tiles(dict(tags), (1, 1), max_image_pixels=1_000_000)


@pytest.mark.parametrize(
    "second", [(322, 4, 1, 16), (322, 17, 1, 16), (322, 4, 2, 8)], ids=["repeated", "unknown type", "two values"]
)
def test_rejects_a_tiff_whose_tile_width_libraries_would_read_differently(second: tuple[int, int, int, int]) -> None:
    """Of a tag that occurs twice, libtiff takes the first and Pillow the last."""
    first = [TILES[0]] if second[1:3] == (4, 1) else []
    rejected_quickly(directory([*TINY_TIFF, *first, second, *TILES[1:]], bytes(200)))


def test_rejects_a_tiff_whose_entries_repeat_a_large_block() -> None:
    entries = [(256, 4, 1, 1), (257, 4, 1, 1), *((tag, 7, 1_000_000, 8) for tag in range(1000, 5000))]
    rejected_quickly(directory(entries, bytes(1_000_000)))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "TIFF", "WEBP", "AVIF", "BMP"])
def test_truncated_files_pass_or_fail_the_check_without_other_errors(
    make_photo: MakePhoto, encode: Encode, kind: str
) -> None:
    data = encode(make_photo(40, 30), kind)
    for length in range(0, len(data), max(1, len(data) // 200)):
        try:
            check_structure(data[:length])
        except InvalidImage as error:
            assert str(error)  # noqa: PT017 - either outcome is correct


def test_a_decoder_without_enough_memory_raises_memory_error(
    make_photo: MakePhoto, encode: Encode, tmp_path: Path
) -> None:
    small, large = tmp_path / "small.webp", tmp_path / "large.webp"
    small.write_bytes(encode(make_photo(40, 30), "WEBP"))
    large.write_bytes(encode(Image.new("RGB", (4000, 3000)), "WEBP"))
    code = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from model.images.transform import Transform, preprocess\n"
        "small, large = (Path(path).read_bytes() for path in sys.argv[1:])\n"
        "preprocess(small, Transform(36, 32))\n"
        "resource.setrlimit(resource.RLIMIT_DATA, (1, 1))\n"
        "try:\n    preprocess(large, Transform(36, 32))\nexcept MemoryError:\n    print('MemoryError')\n"
    )
    result = subprocess.run([sys.executable, "-c", code, small, large], capture_output=True, text=True, check=False)
    assert result.stdout.strip() == "MemoryError", result.stderr


def test_broken_tiff_files_print_nothing(encode: Encode, make_photo: MakePhoto, tmp_path: Path) -> None:
    """libtiff prints its errors and warnings to standard error by default."""
    code = (
        "import pathlib, random, sys\n"
        "from model.errors import ModelError\n"
        "from model.images.transform import Transform, preprocess\n"
        "generator = random.Random(0)\n"
        "for path in sys.argv[1:]:\n"
        "    data = pathlib.Path(path).read_bytes()\n"
        "    for _ in range(100):\n"
        "        broken = bytearray(data)\n"
        "        for _ in range(3):\n            broken[generator.randrange(len(data))] = generator.randrange(256)\n"
        "        try:\n            preprocess(bytes(broken), Transform(36, 32))\n"
        "        except ModelError as error:\n            print(type(error).__name__)\n"
    )
    paths = []
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits"):
        paths.append(tmp_path / f"{compression}.tiff")
        paths[-1].write_bytes(encode(make_photo(61, 47), "TIFF", compression=compression))
    result = subprocess.run([sys.executable, "-c", code, *paths], capture_output=True, text=True, check=True)
    assert result.stderr == ""
    assert "InvalidImage" in result.stdout.splitlines()


def test_the_size_is_read_from_the_headers_of_an_incomplete_file(make_photo: MakePhoto, encode: Encode) -> None:
    image = EncodedImage(encode(make_photo(640, 480), "JPEG")[:20_000], 1_000_000)
    assert image.size == (640, 480)
    with pytest.raises(InvalidImage):
        image.decode()


@pytest.mark.filterwarnings("ignore::UserWarning")  # of the reference
@pytest.mark.parametrize("transparency", [b"", b"\x10" * 3, bytes(300)], ids=["empty", "short", "long"])
@pytest.mark.parametrize("palette", ["present", "missing", "short"])
def test_accepts_palette_images_with_unusual_palettes_that_pillow_loads(
    encode: Encode, palette: str, transparency: bytes
) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 30, 3), np.uint8)).quantize(16)
    data = encode(image)
    start = data.index(b"PLTE") - 4
    (length,) = struct.unpack_from(">I", data, start)
    colors = {"present": data[start + 8 : start + 8 + length], "missing": None, "short": b"abcdef"}[palette]
    chunks = (b"" if colors is None else chunk(b"PLTE", colors)) + chunk(b"tRNS", transparency)
    changed = data[:start] + chunks + data[start + 12 + length :]
    with Image.open(io.BytesIO(changed)) as loaded:
        loaded.convert("RGB")
    assert preprocess(changed, TRANSFORM).shape == (32, 32, 3)
