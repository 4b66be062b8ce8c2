"""TIFF images of every layout have the pixels that tifffile reads, or are rejected."""

import io
import struct
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pytest
import skimage.color
import tifffile
from PIL import Image

from model.errors import InvalidImage
from model.images.decode import EncodedImage
from model.images.transform import Pixels

Array = npt.NDArray[Any]  # Any: of several integer and floating-point types
Order = Literal["<", ">"]

ORDERS: tuple[Order, Order] = ("<", ">")
LAYOUTS: dict[str, dict[str, Any]] = {"strip": {}, "strips": {"rowsperstrip": 7}, "tiles": {"tile": (32, 48)}}
CHANNELS = {"minisblack": 1, "rgb": 3, "separated": 4}


def waves(channels: int, dtype: str, bits: int | None = None) -> Array:
    """Different smooth waves in each of ``channels`` planes ``(50, 70, channels)``, over the whole range of values."""
    y, x, k = np.mgrid[0:50, 0:70, 0:channels]
    unit = 0.5 + 0.5 * np.sin((x * (1 + k) + y * (2 - 0.3 * k)) / 9 + k)
    values: Array = (unit * ((1 << (bits or 8 * np.dtype(dtype).itemsize)) - 1)).round().astype(dtype)
    return values


def tiff(array: Array, **options: Any) -> bytes:  # Any: tifffile's
    file = io.BytesIO()
    tifffile.imwrite(file, array, metadata=None, **options)
    return file.getvalue()


def packed_tiff(levels: Array, bits: int, order: Order = "<") -> bytes:
    """A TIFF image whose samples of ``bits`` bits follow each other without gaps within a row."""
    height, width, samples = levels.shape
    planes = (levels.reshape(height, -1)[..., None] >> np.arange(bits)[::-1]) & 1  # (H, samples of a row, bits)
    rows = np.packbits(planes.reshape(height, -1).astype(np.uint8), axis=1).tobytes()
    entries = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, bits), (259, 3, 1, 1)]
    entries += [(262, 3, 1, 2 if samples == 3 else 1), (273, 4, 1, 8), (277, 3, 1, samples)]
    entries += [(278, 4, 1, height), (279, 4, 1, len(rows))]
    packed = [(tag, kind, count, value << 16 * (order == ">" and kind == 3)) for tag, kind, count, value in entries]
    directory = b"".join(struct.pack(f"{order}HHLL", *entry) for entry in packed)
    header = struct.pack(f"{order}2sHL", b"II" if order == "<" else b"MM", 42, 8 + len(rows))
    return header + rows + struct.pack(f"{order}H", len(entries)) + directory + bytes(4)


def expected(data: bytes, photometric: str, *, alpha: bool = False) -> npt.NDArray[np.float64]:
    """The RGB values that tifffile's array stands for, over white."""
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = file.pages.first
        stored = page.asarray()
        white = (1 << page.bitspersample) - 1
        if page.planarconfig == tifffile.PLANARCONFIG.SEPARATE and page.samplesperpixel > 1:
            stored = np.moveaxis(stored, 0, -1)
    values = stored.reshape(*stored.shape[:2], -1) / white
    count = CHANNELS[photometric]
    color = values[..., :count]
    if photometric == "separated":
        color = (1 - color[..., :3]) * (1 - color[..., 3:])
    if alpha:
        color = color * values[..., count : count + 1] + 1 - values[..., count : count + 1]
    return np.broadcast_to(color, (*color.shape[:2], 3)) * 255


def decode(data: bytes) -> Pixels:
    return EncodedImage(data, 1_000_000).decode()


def assert_same(data: bytes, levels: Array) -> None:
    """At most three levels apart: of rounding 16 bits to 8, of blending, and of the conversion of CMYK."""
    pixels = decode(data)
    assert pixels.shape == levels.shape
    assert np.abs(pixels - levels.astype(np.float64)).max() <= 3


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("planes", ["contig", "separate"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize(("photometric", "extra"), [("rgb", ()), ("rgb", ("unassalpha",)), ("separated", ())])
def test_interleaved_and_separate_planes_have_the_same_pixels(
    photometric: str,
    extra: tuple[str, ...],
    dtype: str,
    planes: str,
    compression: str | None,
    layout: str,
    order: Order,
) -> None:
    array = waves(CHANNELS[photometric] + len(extra), dtype)
    stored = np.moveaxis(array, -1, 0) if planes == "separate" else array
    options = LAYOUTS[layout] | {"planarconfig": planes, "compression": compression, "extrasamples": extra or None}
    data = tiff(stored, photometric=photometric, byteorder=order, **options)
    assert_same(data, expected(data, photometric, alpha=bool(extra)))


@pytest.mark.parametrize("predictor", [False, True])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("photometric", ["minisblack", "rgb"])
def test_predictors_and_byte_orders_change_no_pixels(
    photometric: str, dtype: str, order: Order, predictor: bool
) -> None:
    array = waves(CHANNELS[photometric], dtype)
    array = array[..., 0] if photometric == "minisblack" else array
    data = tiff(array, photometric=photometric, byteorder=order, compression="zlib", predictor=predictor)
    assert_same(data, expected(data, photometric))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("bits", [1, 2, 4, 8, 12, 16])
def test_gray_of_every_depth_is_scaled_to_eight_bits(bits: int, order: Order) -> None:
    levels = waves(1, "uint16", bits)
    swapped = bits == 16 and order == "<"  # samples of whole bytes are in the file's byte order
    stored = levels.byteswap() if swapped else levels
    assert_same(packed_tiff(stored, bits, order), np.repeat(levels * 255.0 / ((1 << bits) - 1), 3, axis=2))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_gray_in_which_white_is_zero_is_inverted(dtype: str, layout: str, order: Order) -> None:
    array, white = waves(1, dtype), np.iinfo(dtype).max
    data = tiff(array[..., 0], photometric="miniswhite", byteorder=order, **LAYOUTS[layout])
    assert np.array_equal(decode(data), np.repeat((white - array) // (white // 255), 3, axis=2))


@pytest.mark.parametrize("kind", ["assocalpha", "unassalpha"])
def test_gray_with_alpha_is_laid_over_white(kind: str) -> None:
    array = waves(2, "uint8")
    if kind == "assocalpha":  # color is already multiplied with alpha
        array[..., 0] = (array[..., 0] * (array[..., 1] / 255)).round()
    data = tiff(array, photometric="minisblack", extrasamples=[kind], planarconfig="contig")
    alpha = array[..., 1:] / 255
    color = array[..., :1] if kind == "assocalpha" else array[..., :1] * alpha
    levels = np.repeat(color + 255 * (1 - alpha), 3, axis=2)
    assert np.abs(decode(data) - levels).mean() < 1.5  # dividing by a small alpha is inexact


@pytest.mark.parametrize("shift", [0, 8], ids=["16 bits", "8 bits"])
@pytest.mark.parametrize("order", ORDERS)
def test_palettes_of_eight_and_sixteen_bits_have_the_same_colors(order: Order, shift: int) -> None:
    colors = np.random.default_rng(0).integers(0, 65536, (3, 256)).astype(np.uint16)
    indices = waves(1, "uint8")[..., 0]
    data = tiff(indices, photometric="palette", colormap=colors >> shift, byteorder=order)
    assert np.array_equal(decode(data), (colors.T[indices] >> 8).astype(np.uint8))


def test_lab_is_converted_to_rgb() -> None:
    gray = np.tile(np.linspace(0, 255, 64).astype(np.uint8)[:, None], (50, 1, 3))
    lightness = skimage.color.rgb2lab(gray)[..., 0] * 2.55
    lab = np.stack([lightness.round(), np.zeros_like(lightness), np.zeros_like(lightness)], axis=-1).astype(np.uint8)
    assert_same(tiff(lab, photometric="cielab"), gray)


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "uint32", "float16", "float32", "float64", "complex64"])
@pytest.mark.parametrize("photometric", ["minisblack", "rgb"])
def test_rejects_values_of_unknown_range(photometric: str, dtype: str) -> None:
    array = waves(3, "uint8")
    data = tiff((array if photometric == "rgb" else array[..., 0]).astype(dtype), photometric=photometric)
    with pytest.raises(InvalidImage, match="accepted are grayscale") as caught:
        decode(data)
    assert ("floating-point" in str(caught.value)) == dtype.startswith("float")


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize(
    ("photometric", "extra", "channels"),
    [("minisblack", ["unassalpha"], 2), ("minisblack", ["assocalpha"], 2), ("cielab", None, 3)],
)
def test_rejects_separate_planes_that_pillow_mixes_up(
    photometric: str, extra: list[str] | None, channels: int, compression: str | None
) -> None:
    array = np.moveaxis(waves(channels, "uint8"), -1, 0)
    options = {"planarconfig": "separate", "extrasamples": extra, "compression": compression}
    data = tiff(array, photometric=photometric, **options)
    with pytest.raises(InvalidImage, match="separate planes"):
        decode(data)


@pytest.mark.parametrize("bits", [10, 12, 14])
def test_rejects_other_depths_by_name(bits: int) -> None:
    with pytest.raises(InvalidImage, match=f"bits per sample {bits}"):
        decode(packed_tiff(waves(3, "uint16", bits), bits))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_rejects_big_endian_bigtiff_by_name() -> None:
    data = tiff(waves(3, "uint8"), photometric="rgb", bigtiff=True, byteorder=">")
    with pytest.raises(InvalidImage, match="big-endian BigTIFF"):
        decode(data)


@pytest.mark.parametrize("planes", ["contig", "separate"])
def test_a_truncated_uncompressed_image_is_rejected(planes: str) -> None:
    array = waves(3, "uint8")
    data = tiff(np.moveaxis(array, -1, 0) if planes == "separate" else array, photometric="rgb", planarconfig=planes)
    with pytest.raises(InvalidImage):
        decode(data[:-100])


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "jpeg"])
def test_ycbcr_is_converted_to_rgb(compression: str) -> None:
    image = Image.fromarray(waves(3, "uint8")).reduce(2).resize((70, 50))
    file = io.BytesIO()
    image.convert("YCbCr").save(file, "TIFF", compression=compression)
    assert np.abs(decode(file.getvalue()).astype(np.int64) - np.asarray(image)).mean() < 4
