"""HEIF files are told apart by their brands, and HEIC is decoded if pi-heif is installed."""

import importlib.util
import struct
from pathlib import Path

import numpy as np
import pytest

from model.errors import ImageTooLarge, InvalidImage, ModelError, UnsupportedFormat
from model.images.decode import EncodedImage
from model.images.heif import find_heif_format
from model.images.jpeg import Pixels
from tests.conftest import Encode, MakePhoto
from tests.model.images.files import directory

FOLDER = Path(__file__).parent / "heic"
HAS_DECODER = importlib.util.find_spec("pi_heif") is not None
needs_decoder = pytest.mark.skipif(not HAS_DECODER, reason='needs the extra "heif"')


def header(*brands: str, rest: bytes = bytes(100)) -> bytes:
    major, *compatible = (brand.encode() for brand in brands)
    return struct.pack(">L", 16 + 4 * len(compatible)) + b"ftyp" + major + bytes(4) + b"".join(compatible) + rest


@pytest.mark.parametrize(
    ("brands", "kind"),
    [
        (["heic", "mif1", "heic"], "HEIF"),  # Apple
        (["heic", "mif1", "MiHE", "MiPr", "miaf", "MiHB", "heic", "tmap"], "HEIF"),
        (["mif1", "heic"], "HEIF"),  # Samsung, Nokia
        (["mif1", "miaf", "MiHB", "heix"], "HEIF"),
        (["heix", "mif1", "heix"], "HEIF"),  # Canon and Sony, 10 bits
        (["msf1", "hevc", "mif1", "heic"], "HEIF"),  # a burst
        (["hevc"], "HEIF"),
        (["heim"], "HEIF"),
        (["MiHE"], "HEIF"),
        (["mif1"], "HEIF"),
        (["mif1", "miaf"], "HEIF"),
        (["mif2", "miaf", "heic"], "HEIF"),
        (["avif", "mif1", "miaf"], "AVIF"),
        (["avis", "msf1", "avif"], "AVIF"),
        (["mif1", "avif", "miaf"], "AVIF"),
        (["avif", "heic"], "AVIF"),
        (["heic", "avif"], "HEIF"),
        (["isom", "iso2", "avc1", "mp41"], None),  # video
        (["qt  "], None),
        (["jp2 "], None),
    ],
)
def test_the_first_brand_that_names_a_coding_decides(brands: list[str], kind: str | None) -> None:
    assert find_heif_format(header(*brands)) == kind


def test_a_file_without_a_brand_of_its_coding_is_told_by_its_items() -> None:
    assert find_heif_format(header("mif1", rest=b"infe\2\0\0\0\0\1\0\0av01\0")) == "AVIF"
    assert find_heif_format(header("mif1", rest=b"infe\2\0\0\0\0\1\0\0hvc1\0")) == "HEIF"


@pytest.mark.parametrize("data", [b"", b"\0\0\0\x18ftyp", b"\xff\xff\xff\xffftypheic", b"\0\0\0\0ftypmif1"])
def test_broken_headers_have_a_kind_or_none(data: bytes) -> None:
    assert find_heif_format(data) in {"HEIF", None}


@pytest.mark.skipif(HAS_DECODER, reason="HEIC is accepted here")
@pytest.mark.parametrize("brands", [["heic"], ["mif1", "heic"], ["heix", "mif1"], ["msf1", "hevc"], ["mif1"]])
def test_heic_is_named_and_what_would_be_accepted(brands: list[str]) -> None:
    with pytest.raises(UnsupportedFormat, match=r"HEIC.*JPEG, PNG"):
        EncodedImage(header(*brands), 1_000_000)


def test_avif_with_the_brand_of_the_container_is_decoded(make_photo: MakePhoto, encode: Encode) -> None:
    data = encode(make_photo(90, 70), "AVIF")
    assert data[8:12] == b"avif"
    assert b"avif" in data[16:32]
    expected = EncodedImage(data, 1_000_000).decode()
    assert np.array_equal(EncodedImage(data[:8] + b"mif1" + data[12:], 1_000_000).decode(), expected)


def photo() -> Pixels:
    """What the files were encoded from."""
    y, x = np.mgrid[0:70, 0:90]
    return np.stack([255 * x / 90, 255 * y / 70, 127 + 60 * np.sin((x + y) / 17)], axis=2).astype(np.uint8)


def decode(name: str, max_image_pixels: int = 1_000_000) -> Pixels:
    return EncodedImage((FOLDER / f"{name}.heic").read_bytes(), max_image_pixels).decode()


@needs_decoder
@pytest.mark.parametrize("name", ["photo", "turned", "ten_bits"])
def test_heic_is_decoded_upright(name: str) -> None:
    expected = np.rot90(photo(), -1) if name == "turned" else photo()
    pixels = decode(name)
    assert pixels.shape == expected.shape
    assert np.abs(pixels.astype(int) - expected).mean() < 5


@needs_decoder
def test_heic_with_alpha_is_laid_over_white() -> None:
    alpha = np.broadcast_to((255 * np.arange(90) / 90)[None, :, None], (70, 90, 1)) / 255
    expected = photo() * alpha + 255 * (1 - alpha)
    assert np.abs(decode("alpha") - expected).mean() < 5


@needs_decoder
def test_rejects_heic_over_the_pixel_limit_from_its_header() -> None:
    with pytest.raises(ImageTooLarge, match="90×70"):
        decode("photo", 6299)
    assert decode("photo", 6300).shape == (70, 90, 3)


@needs_decoder
def test_ignores_broken_exif_in_heic() -> None:
    data = (FOLDER / "turned.heic").read_bytes()
    start = data.index(b"Exif\0\0MM" if b"Exif\0\0MM" in data else b"Exif\0\0II") + 6
    broken = directory([(0x0112, 7, 0xFFFFFFFF, 8)])[:20]
    damaged = data[:start] + broken + data[start + len(broken) :]
    assert np.array_equal(EncodedImage(damaged, 1_000_000).decode(), decode("turned"))


@needs_decoder
def test_ignores_metadata_in_heic_whose_type_is_no_text() -> None:
    data = (FOLDER / "turned.heic").read_bytes()
    changed = data.replace(b"Exif\0", b"\xffxif\0", 1)
    assert changed != data
    assert np.array_equal(EncodedImage(changed, 1_000_000).decode(), decode("turned"))


@needs_decoder
@pytest.mark.parametrize("bits", [9, 10, 12, 15])
def test_rejects_gray_heic_whose_header_has_more_than_eight_bits(bits: int) -> None:
    y, x = np.mgrid[0:70, 0:90]
    assert np.abs(decode("gray") - (x + 2 * y)[..., None].astype(int)).mean() < 3
    data = (FOLDER / "gray.heic").read_bytes()
    start = data.index(b"hvcC") + 21  # the depth of luma, without the 8 bits that are its least
    assert data[start] == 0xF8
    with pytest.raises(InvalidImage, match="grayscale"):
        EncodedImage(data[:start] + bytes([0xF8 + bits - 8]) + data[start + 1 :], 1_000_000).decode()


@needs_decoder
def test_truncated_and_changed_heic_returns_pixels_or_a_model_error() -> None:
    data = (FOLDER / "photo.heic").read_bytes()
    generator = np.random.default_rng(0)
    for length in range(40, len(data), 37):
        with pytest.raises(ModelError):
            EncodedImage(data[:length], 1_000_000).decode()
    for _ in range(200):
        changed = bytearray(data)
        for position in generator.integers(0, len(data), 3):
            changed[position] = generator.integers(0, 256)
        try:
            assert EncodedImage(bytes(changed), 1_000_000).decode().dtype == np.uint8
        except ModelError as error:
            assert str(error)  # noqa: PT017 - either outcome is correct


@needs_decoder
def test_a_broken_heic_header_is_an_invalid_image() -> None:
    with pytest.raises(InvalidImage, match="HEIF"):
        EncodedImage(header("heic", "mif1"), 1_000_000)
