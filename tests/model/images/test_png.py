"""PNG images have all of their rows, or are rejected."""

import itertools
import struct
import tracemalloc
import zlib

import numpy as np
import pytest

from model.errors import InvalidImage
from model.images.decode import EncodedImage
from tests.model.images.files import chunk

WIDTH, HEIGHT = 11, 13
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
ADAM7 = (  # the pixels of each 8×8 block in the order in which they are stored, PNG specification, 8.1
    "16462646",
    "77777777",
    "56565656",
    "77777777",
    "36463646",
    "77777777",
    "56565656",
    "77777777",
)


def rows_of(bits: int, color_type: int, interlaced: bool, sample: int) -> list[bytes]:
    """The rows of an image whose samples are all 0 or all 255, each with its filter, in stored order."""
    blocks = np.array([[int(number) for number in row] for row in ADAM7]) if interlaced else np.ones((8, 8), int)
    passes = np.tile(blocks, (2, 2))[:HEIGHT, :WIDTH]
    counts = [int(row.sum()) for number in range(1, 8) for row in passes == number]
    return [b"\0" + bytes([sample]) * -(-count * bits * CHANNELS[color_type] // 8) for count in counts if count]


def png(bits: int, color_type: int, interlaced: bool, rows: list[bytes], parts: int = 1) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", WIDTH, HEIGHT, bits, color_type, 0, 0, interlaced))
    palette = chunk(b"PLTE", bytes(range(256)) * 3) if color_type == 3 else b""
    data = zlib.compress(b"".join(rows))
    ends = [len(data) * part // parts for part in range(parts + 1)]
    content = b"".join(chunk(b"IDAT", data[start:end]) for start, end in itertools.pairwise(ends))
    return b"\x89PNG\r\n\x1a\n" + header + palette + content + chunk(b"IEND")


@pytest.mark.parametrize("sample", [0, 255])
@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(
    ("bits", "color_type"),
    [(1, 0), (4, 0), (8, 0), (16, 0), (8, 2), (16, 2), (2, 3), (8, 3), (8, 4), (16, 4), (8, 6), (16, 6)],
)
def test_rejects_a_png_whose_data_ends_before_its_last_row(
    bits: int, color_type: int, interlaced: bool, sample: int
) -> None:
    rows = rows_of(bits, color_type, interlaced, sample)
    for parts in (1, 3):
        assert EncodedImage(png(bits, color_type, interlaced, rows, parts), 1_000).decode().shape == (HEIGHT, WIDTH, 3)
        for count in range(len(rows)):
            with pytest.raises(InvalidImage):
                EncodedImage(png(bits, color_type, interlaced, rows[:count], parts), 1_000).decode()


def test_what_follows_the_last_row_is_not_decompressed() -> None:
    data = png(8, 0, True, [*rows_of(8, 0, True, 0), bytes(100_000_000)])
    tracemalloc.start()
    try:
        assert EncodedImage(data, 1_000).decode().max() == 0
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()
