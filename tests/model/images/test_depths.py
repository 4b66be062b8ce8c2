"""PNG, BMP and JPEG images of every depth and layout have the pixels that their specifications define."""

import struct
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from model.errors import ImageTooLarge, InvalidImage
from model.images.decode import EncodedImage
from tests.conftest import Encode, MakePhoto
from tests.model.images.files import chunk

Levels = npt.NDArray[np.int64]
Colors = npt.NDArray[Any]  # Any: of integers or floating-point numbers

HEIGHT, WIDTH = 30, 41
GRAY, RGB, PALETTE, GRAY_ALPHA, RGB_ALPHA = 0, 2, 3, 4, 6  # PNG's color types
PALETTE_COLORS = np.random.default_rng(0).integers(0, 256, (256, 3))


def wave(kind: int, bits: int) -> Levels:
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    unit = 0.5 + 0.5 * np.sin((x * (1 + kind) + y * (2 - 0.3 * kind)) / 7 + kind)
    levels: Levels = np.round(unit * ((1 << bits) - 1)).astype(np.int64)
    return levels


def waves(count: int, bits: int) -> Levels:
    return np.stack([wave(kind, bits) for kind in range(count)], axis=-1)


def over_white(color: Colors, alpha: Colors) -> Colors:
    blended: Colors = color * alpha[..., None] + 255 * (1 - alpha[..., None])
    return blended


def packed_row(row: Levels, bits: int) -> bytes:
    planes = (row.reshape(-1)[:, None] >> np.arange(bits)[::-1]) & 1
    return np.packbits(planes.reshape(-1).astype(np.uint8)).tobytes()


def png(levels: Levels, bits: int, color_type: int, *chunks: bytes) -> bytes:
    rows = b"".join(b"\0" + packed_row(row, bits) for row in levels)
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, bits, color_type, 0, 0, 0)
    parts = [chunk(b"IHDR", header), *chunks, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def assert_decodes_to(data: bytes, expected: Colors, tolerance: float = 1.5) -> None:
    pixels = EncodedImage(data, 1_000_000).decode()
    assert pixels.shape == expected.shape
    assert np.abs(pixels - expected.astype(np.float64)).max() <= tolerance


@pytest.mark.parametrize("transparent", [False, True])
@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_gray_png_with_and_without_a_transparent_level(bits: int, transparent: bool) -> None:
    levels = wave(0, bits)
    expected = np.repeat(levels[..., None] * 255 / ((1 << bits) - 1), 3, axis=2)
    level = int(levels[5, 7])
    if transparent:
        expected = over_white(expected, (levels != level).astype(float))
    chunks = [chunk(b"tRNS", struct.pack(">H", level))] if transparent else []
    assert_decodes_to(png(levels[..., None], bits, GRAY, *chunks), expected)


@pytest.mark.parametrize("transparent", [False, True])
@pytest.mark.parametrize("bits", [8, 16])
def test_rgb_png_with_and_without_a_transparent_color(bits: int, transparent: bool) -> None:
    white = (1 << bits) - 1
    levels = waves(3, 2) * (white // 3)
    color = levels[5, 7]
    visible = (levels != color).any(axis=2)
    assert not visible.all()
    expected = over_white(levels * 255 / white, visible | (not transparent))
    chunks = [chunk(b"tRNS", struct.pack(">3H", *color))] if transparent else []
    assert_decodes_to(png(levels, bits, RGB, *chunks), expected)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("color_type", [GRAY_ALPHA, RGB_ALPHA])
def test_png_with_alpha_is_laid_over_white(color_type: int, bits: int) -> None:
    levels = waves(2 if color_type == GRAY_ALPHA else 4, bits)
    unit = levels / ((1 << bits) - 1)
    color = np.broadcast_to(unit[..., :-1], (HEIGHT, WIDTH, 3)) * 255
    assert_decodes_to(png(levels, bits, color_type), over_white(color, unit[..., -1]), tolerance=3)


@pytest.mark.parametrize("alpha", [None, [0, 50, 100, 150, 200], [255, 0]], ids=["none", "several", "one"])
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_palette_png_with_and_without_alpha(bits: int, alpha: list[int] | None) -> None:
    count = 1 << bits
    indices = wave(0, bits)
    values = np.full(count, 255)
    chunks = [chunk(b"PLTE", PALETTE_COLORS[:count].astype(np.uint8).tobytes())]
    if alpha is not None:
        values[: len(alpha)] = alpha[:count]
        chunks.append(chunk(b"tRNS", bytes(alpha[:count])))
    expected = over_white(PALETTE_COLORS[indices], values[indices] / 255)
    assert_decodes_to(png(indices[..., None], bits, PALETTE, *chunks), expected)


def bmp(
    rows: bytes, bits: int, *, compression: int = 0, header: int = 40, extra: bytes = b"", height: int = HEIGHT
) -> bytes:
    """A BMP file; ``extra`` is what follows the first 40 bytes of the header: masks, and the palette."""
    fields = struct.pack("<IiiHHIIiiII", header, WIDTH, height, 1, bits, compression, len(rows), 2835, 2835, 0, 0)
    fields += extra if header == 40 else (extra + bytes(header))[: header - 40]
    offset = 14 + len(fields)
    return b"BM" + struct.pack("<IHHI", offset + len(rows), 0, 0, offset) + fields + rows


def bottom_up(levels: Levels, dtype: str) -> bytes:
    rows = (row.astype(dtype).tobytes() for row in levels[::-1])
    return b"".join(row + bytes(-len(row) % 4) for row in rows)


BGRA_MASKS = struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
RGBA_MASKS = struct.pack("<4I", 0xFF, 0xFF00, 0xFF0000, 0xFF000000)


@pytest.mark.parametrize(("masks", "channels"), [(BGRA_MASKS, [2, 1, 0, 3]), (RGBA_MASKS, [0, 1, 2, 3])])
@pytest.mark.parametrize("header", [56, 108, 124])
@pytest.mark.parametrize("alpha", ["waves", "zero", "one visible pixel", "opaque"])
def test_bmp_with_alpha_is_opaque_where_all_of_it_is_zero(
    header: int, alpha: str, masks: bytes, channels: list[int]
) -> None:
    levels = waves(4, 8)
    visible = np.zeros((HEIGHT, WIDTH), np.int64)
    visible[3, 4] = 255
    alphas = {"waves": levels[..., 3], "zero": visible * 0, "one visible pixel": visible, "opaque": visible * 0 + 255}
    levels[..., 3] = alphas[alpha]
    data = bmp(bottom_up(levels[..., channels], "u1"), 32, compression=3, header=header, extra=masks)
    opacity = np.ones((HEIGHT, WIDTH)) if alpha == "zero" else levels[..., 3] / 255
    assert_decodes_to(data, over_white(levels[..., :3], opacity))


@pytest.mark.parametrize("header", [40, 108, 124])
@pytest.mark.parametrize("top_down", [False, True])
def test_bmp_of_32_bits_without_masks_has_no_alpha(header: int, top_down: bool) -> None:
    levels = waves(4, 8)
    stored = levels[::-1] if top_down else levels
    data = bmp(bottom_up(stored[..., [2, 1, 0, 3]], "u1"), 32, header=header, height=-HEIGHT if top_down else HEIGHT)
    assert_decodes_to(data, levels[..., :3])


@pytest.mark.parametrize(
    ("bits", "masks"), [((5, 5, 5), None), ((5, 5, 5), (0x7C00, 0x3E0, 0x1F)), ((5, 6, 5), (0xF800, 0x7E0, 0x1F))]
)
def test_bmp_of_16_bits(bits: tuple[int, int, int], masks: tuple[int, int, int] | None) -> None:
    red, green, blue = (wave(kind, count) for kind, count in enumerate(bits))
    stored = red << (bits[1] + bits[2]) | green << bits[2] | blue
    extra = b"" if masks is None else struct.pack("<3I", *masks)
    data = bmp(bottom_up(stored, "<u2"), 16, compression=3 if masks else 0, extra=extra)
    expected = np.stack([wave(kind, count) * 255 / ((1 << count) - 1) for kind, count in enumerate(bits)], axis=-1)
    assert_decodes_to(data, expected)


@pytest.mark.parametrize(
    ("header", "compression", "bits", "channels"),  # bits of each color and of alpha, from the lowest bit
    [
        (56, 3, 16, {"B": 5, "G": 5, "R": 5, "A": 1}),  # Photoshop, GIMP
        (124, 3, 16, {"B": 5, "G": 5, "R": 5, "A": 1}),
        (56, 3, 16, {"B": 4, "G": 4, "R": 4, "A": 4}),  # Photoshop
        (56, 3, 16, {"B": 4, "G": 4, "R": 4}),
        (40, 3, 16, {"B": 4, "G": 4, "R": 4}),  # FFmpeg
        (40, 3, 32, {"R": 8, "G": 8, "B": 8}),
        (40, 3, 32, {"B": 10, "G": 11, "R": 11}),
        (40, 6, 32, {"R": 8, "G": 8, "B": 8, "A": 8}),  # Windows CE
        (108, 3, 32, {"B": 10, "G": 10, "R": 10, "A": 2}),
    ],
)
@pytest.mark.parametrize("top_down", [False, True])
def test_bmp_with_bit_fields_of_any_size(
    header: int, compression: int, bits: int, channels: dict[str, int], top_down: bool
) -> None:
    stored = np.zeros((HEIGHT, WIDTH), np.int64)
    masks, scaled = dict.fromkeys("RGBA", 0), {"A": np.ones((HEIGHT, WIDTH))}
    shift = 0
    for name, count in channels.items():
        highest = (1 << count) - 1
        stored |= wave("RGBA".index(name), count) << shift
        masks[name] = highest << shift
        scaled[name] = wave("RGBA".index(name), count) / highest
        shift += count
    extra = struct.pack("<4I", *masks.values())[: 16 if header > 40 or compression == 6 else 12]
    rows = bottom_up(stored[::-1] if top_down else stored, f"<u{bits // 8}")
    height = -HEIGHT if top_down else HEIGHT
    data = bmp(rows, bits, compression=compression, header=header, extra=extra, height=height)
    expected = over_white(np.stack([scaled[name] * 255 for name in "RGB"], axis=-1), scaled["A"])
    assert_decodes_to(data, expected)
    with pytest.raises(InvalidImage):
        EncodedImage(data[:-1], 1_000_000).decode()
    with pytest.raises(ImageTooLarge):
        EncodedImage(data, 1000)


@pytest.mark.parametrize("compression", [0, 1], ids=["raw", "RLE8"])
def test_bmp_with_palette(compression: int) -> None:
    indices = wave(0, 8)
    rows = bottom_up(indices, "u1")
    if compression:  # a run of one pixel each, and the end of each row
        rows = b"".join(b"".join(b"\1" + bytes([value]) for value in row) + b"\0\0" for row in indices[::-1]) + b"\0\1"
    palette = np.concatenate([PALETTE_COLORS[:, ::-1], np.zeros((256, 1), np.int64)], axis=1).astype(np.uint8).tobytes()
    assert_decodes_to(bmp(rows, 8, compression=compression, extra=palette), PALETTE_COLORS[indices])


def test_jpeg_of_inverted_cmyk_with_adobe_marker(make_photo: MakePhoto, encode: Encode) -> None:
    """Adobe's programs store 255 minus the ink; the marker makes libjpeg return the same for YCCK."""
    cmyk = make_photo(96, 64).resize((48, 32)).resize((96, 64)).convert("CMYK")
    data = encode(cmyk, "JPEG", quality=98, subsampling=0)
    assert b"\xff\xee\0\x0eAdobe" in data
    ink = np.asarray(cmyk) / 255
    expected = (1 - ink[..., :3]) * (1 - ink[..., 3:]) * 255
    assert np.abs(EncodedImage(data, 1_000_000).decode() - expected).mean() < 3


def test_the_depth_of_a_png_file_does_not_change_its_colors(make_photo: MakePhoto, encode: Encode) -> None:
    """Pixels of 16 bits whose high byte is the pixel of 8 bits."""
    photo = make_photo(WIDTH, HEIGHT)
    deep = png(np.asarray(photo).astype(np.int64) * 257, 16, RGB)
    assert np.array_equal(EncodedImage(deep, 1_000_000).decode(), EncodedImage(encode(photo), 1_000_000).decode())
