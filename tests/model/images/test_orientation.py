"""Images are turned as by Pillow's ``exif_transpose``, wherever it finds the orientation."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from model.images.decode import EncodedImage
from model.images.jpeg import Pixels
from model.images.orientation import find_orientation
from tests.conftest import Encode, MakePhoto
from tests.model.images.files import chunk, directory, extended_webp, segment, webp_chunk

ATTRIBUTE, ELEMENT = 'tiff:Orientation="{}"', "<tiff:Orientation>{}</tiff:Orientation>"
XMP_HEADER = b"http://ns.adobe.com/xap/1.0/\0"


def exif(orientation: int, order: str = "<", kind: int = 3) -> bytes:
    value = orientation << 16 if order == ">" and kind == 3 else orientation
    return directory([(0x0112, kind, 1, value)], order=order)


def xmp(orientation: int, form: str = ATTRIBUTE) -> bytes:
    text = form.format(orientation)
    return f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF><rdf:Description {text}/></rdf:RDF></x:xmpmeta>'.encode()


def profile(orientation: int) -> bytes:
    content = b"Exif\0\0" + exif(orientation)
    return f"\nexif\n{len(content):8}\n{content.hex()}\n".encode()


def decode(data: bytes) -> Pixels:
    return EncodedImage(data, 1_000_000).decode()


def pillow(data: bytes) -> Pixels:
    return np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))


def assert_turned(data: bytes, orientation: int) -> None:
    """As by Pillow, which turns images of these orientations to other pixels."""
    assert np.array_equal(decode(data), pillow(data))
    assert decode(data).shape[:2] == ((90, 70) if orientation >= 5 else (70, 90))


def png_texts(orientation: int) -> dict[str, bytes]:
    packet = xmp(orientation)
    return {
        "eXIf": chunk(b"eXIf", exif(orientation)),
        "profile in tEXt": chunk(b"tEXt", b"Raw profile type exif\0" + profile(orientation)),
        "profile in zTXt": chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(profile(orientation))),
        "profile in iTXt": chunk(b"iTXt", b"Raw profile type exif\0\0\0\0\0" + profile(orientation)),
        "EXIF in tEXt": chunk(b"tEXt", b"exif\0" + exif(orientation)),
        "XMP": chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + packet),
        "XMP as elements": chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp(orientation, ELEMENT)),
        "compressed XMP": chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0en\0key\0" + zlib.compress(packet)),
        "XMP in tEXt": chunk(b"tEXt", b"XML:com.adobe.xmp\0" + packet),
        "EXIF before XMP": chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp(3)) + chunk(b"eXIf", exif(orientation)),
        "EXIF before a profile": chunk(b"tEXt", b"Raw profile type exif\0" + profile(3))
        + chunk(b"eXIf", exif(orientation)),
    }


@pytest.mark.parametrize("orientation", [2, 6, 8])
@pytest.mark.parametrize("place", ["before", "after"])
@pytest.mark.parametrize("name", png_texts(6))
def test_png(make_photo: MakePhoto, encode: Encode, name: str, place: str, orientation: int) -> None:
    plain = encode(make_photo(90, 70))
    at = 33 if place == "before" else len(plain) - 12  # the image data
    assert_turned(plain[:at] + png_texts(orientation)[name] + plain[at:], orientation)


def jpeg_segments(orientation: int) -> dict[str, bytes]:
    block = exif(orientation)
    return {
        "EXIF": segment(0xE1, b"Exif\0\0" + block),
        "big-endian EXIF": segment(0xE1, b"Exif\0\0" + exif(orientation, ">")),
        "a long orientation": segment(0xE1, b"Exif\0\0" + exif(orientation, kind=4)),
        "a long big-endian orientation": segment(0xE1, b"Exif\0\0" + exif(orientation, ">", kind=4)),
        "EXIF in two segments": segment(0xE1, b"Exif\0\0" + block[:9]) + segment(0xE1, b"Exif\0\0" + block[9:]),
        "XMP": segment(0xE1, XMP_HEADER + xmp(orientation)),
        "XMP as elements": segment(0xE1, XMP_HEADER + xmp(orientation, ELEMENT)),
        "XMP after EXIF without it": segment(0xE1, b"Exif\0\0" + directory([(0x0110, 2, 1, 0)]))
        + segment(0xE1, XMP_HEADER + xmp(orientation)),
        "EXIF before XMP": segment(0xE1, XMP_HEADER + xmp(3)) + segment(0xE1, b"Exif\0\0" + block),
        "EXIF after JFIF and comments": segment(0xFE, b"a") * 9 + segment(0xE1, b"Exif\0\0" + block),
    }


@pytest.mark.parametrize("orientation", [2, 6, 8])
@pytest.mark.parametrize("mode", ["RGB", "CMYK"])
@pytest.mark.parametrize("name", jpeg_segments(6))
def test_jpeg(make_photo: MakePhoto, encode: Encode, name: str, mode: str, orientation: int) -> None:
    plain = encode(make_photo(90, 70).convert(mode), "JPEG")
    assert_turned(plain[:2] + jpeg_segments(orientation)[name] + plain[2:], orientation)


@pytest.mark.parametrize(
    "form", ["tiff:Orientation='{}'", 'tiff:Orientation = "{}"', "<tiff:Orientation>\n {}\n</tiff:Orientation >"]
)
def test_other_notations_of_xml(make_photo: MakePhoto, encode: Encode, form: str) -> None:
    """ExifTool writes single quotes (``-api Compact=Shorthand``), which Pillow does not read."""
    plain = encode(make_photo(90, 70))
    text = chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp(6, form))
    assert np.array_equal(decode(plain[:33] + text + plain[33:]), np.rot90(decode(plain), -1))


def test_what_follows_a_png_does_not_count(make_photo: MakePhoto, encode: Encode) -> None:
    plain = encode(make_photo(90, 70))
    assert find_orientation(plain + chunk(b"eXIf", exif(6))) == 1


def webp_chunks(orientation: int) -> dict[str, list[bytes]]:
    return {
        "EXIF": [webp_chunk(b"EXIF", exif(orientation))],
        "EXIF with a header": [webp_chunk(b"EXIF", b"Exif\0\0" + exif(orientation))],
        "XMP": [webp_chunk(b"XMP ", xmp(orientation))],
        "EXIF before XMP": [webp_chunk(b"EXIF", exif(orientation)), webp_chunk(b"XMP ", xmp(3))],
    }


@pytest.mark.parametrize("orientation", [2, 6, 8])
@pytest.mark.parametrize("name", webp_chunks(6))
def test_webp(make_photo: MakePhoto, encode: Encode, name: str, orientation: int) -> None:
    assert_turned(extended_webp(make_photo, encode, 0x0C, *webp_chunks(orientation)[name]), orientation)


def tiff(photo: Image.Image, entries: list[tuple[int, int, int, int]], packet: bytes) -> bytes:
    """An uncompressed TIFF file with ``entries``, and XMP if ``packet`` has some."""
    rows = np.asarray(photo).tobytes()
    layout = [(256, 4, 1, 90), (257, 4, 1, 70), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 2), (277, 3, 1, 3)]
    layout += [(278, 4, 1, 70), (279, 4, 1, len(rows)), *entries]
    placeholder = [(700, 1, len(packet), 0)] if packet else []
    start = len(directory([*layout, *placeholder, (273, 4, 1, 0)]))
    placed = [(700, 1, len(packet), start + len(rows))] if packet else []
    return directory([*layout, *placed, (273, 4, 1, start)], rows + packet)


@pytest.mark.parametrize("orientation", [2, 6, 8])
@pytest.mark.parametrize("name", ["tag", "XMP", "tag before XMP"])
def test_tiff(make_photo: MakePhoto, name: str, orientation: int) -> None:
    entries = [(274, 3, 1, orientation)] if name != "XMP" else []
    packet = {"tag": b"", "XMP": xmp(orientation), "tag before XMP": xmp(3)}[name]
    assert_turned(tiff(make_photo(90, 70), entries, packet), orientation)


@pytest.mark.parametrize("orientation", [2, 6, 8])
@pytest.mark.parametrize("name", ["properties", "XMP"])
def test_avif(make_photo: MakePhoto, encode: Encode, name: str, orientation: int) -> None:
    options = {"exif": exif(orientation)} if name == "properties" else {"xmp": xmp(orientation)}
    assert_turned(encode(make_photo(90, 70), "AVIF", **options), orientation)


@pytest.mark.parametrize("orientation", ["0", "9", "x", ""])
def test_an_orientation_in_xmp_that_does_not_exist_is_ignored(
    make_photo: MakePhoto, encode: Encode, orientation: str
) -> None:
    plain = encode(make_photo(90, 70), "JPEG")
    packet = XMP_HEADER + f'<a tiff:Orientation="{orientation}"/>'.encode()
    assert np.array_equal(decode(plain[:2] + segment(0xE1, packet) + plain[2:]), decode(plain))


def test_an_invalid_orientation_in_exif_is_not_replaced_by_xmp(make_photo: MakePhoto, encode: Encode) -> None:
    plain = encode(make_photo(90, 70), "JPEG")
    data = plain[:2] + segment(0xE1, b"Exif\0\0" + exif(9)) + segment(0xE1, XMP_HEADER + xmp(6)) + plain[2:]
    assert np.array_equal(decode(data), pillow(data))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("orientation", [0, 1, 6, 8, 9, 65535])
def test_reads_the_orientation_as_pillow_does(order: str, orientation: int) -> None:
    found = Image.Exif()
    found.endian = order
    found[0x0112] = orientation
    data = found.tobytes()
    expected = Image.Exif()
    expected.load(data)
    assert find_orientation(data.removeprefix(b"Exif\0\0")) == (expected[0x0112] if orientation in range(1, 9) else 1)


@pytest.mark.parametrize("data", [b"", b"II", b"II*\0\xff\xff\xff\xff", b"II*\0\x08\0\0\0\xff\xff", bytes(100)])
def test_a_broken_exif_block_has_no_orientation(data: bytes) -> None:
    assert find_orientation(data) == 1


@pytest.mark.parametrize("length", [0, 1, 3, 2**31])
def test_an_orientation_of_another_length_is_read_as_far_as_it_exists(length: int) -> None:
    block = directory([(0x0112, 3, length, struct.unpack("<L", struct.pack("<HH", 6, 6))[0])])
    assert find_orientation(block) in {1, 6}
