"""Broken, huge and unusual metadata changes no pixel and rejects no image."""

import io
import os
import struct
import time
import zlib

import numpy as np
import pytest
from PIL import Image

from model.images.decode import EncodedImage, load_decoders
from model.images.jpeg import Pixels
from tests.conftest import Encode, MakePhoto
from tests.model.images.files import chunk, directory, extended_webp, segment, webp_chunk

LIMIT_S = 1.0
MB = 1_000_000
NOISE = np.random.default_rng(0).integers(0, 256, 1000, np.uint8).tobytes()
ABSURD = directory([(0x010F, 2, 2_000_000_000, 26), (0x0112, 3, 1, 1)])
RECURSIVE = directory([(0x8769, 4, 1, 8), (0x8825, 4, 1, 8), (0xA005, 4, 1, 8)])
EXIF = {
    "one absurd size": ABSURD,
    "absurd sizes only": directory([(tag, 7, 0xFFFFFFFF, tag) for tag in range(50)]),
    "absurd sizes in big-endian": directory([(tag, 12, 0x10000000, 8) for tag in range(50)], order=">"),
    "a MakerNote behind the end": directory([(0x927C, 7, 60_000, 0xFFFFFF00)]),
    "an orientation of text": directory([(0x0112, 2, 4, 0x00333333)]),
    "directories that contain themselves": RECURSIVE,
    "unknown types": directory([(tag, 99, 5, 5) for tag in range(20)]),
    "zero entries": directory([]),
    "noise": NOISE,
    "nothing": b"",
    "a wrong byte order": b"XX*\0\x08\0\0\0" + NOISE,
    "a directory behind the end": b"II*\0\xff\xff\xff\xff",
    "more entries than bytes": b"II*\0\x08\0\0\0\xff\xff" + NOISE[:100],
    "entries behind the end in big-endian": b"MM\0*\0\0\0\x08\xff\xff",
    "words": b"words",
}
XMP = {"noise": NOISE, "unclosed": b"<x:xmpmeta><rdf:RDF tiff:Orientation=", "huge": b"<a/>" * 15_000, "empty": b""}


def decode(data: bytes) -> Pixels:
    load_decoders()
    started_at = time.thread_time()  # the machine may be busy with other tests
    pixels = EncodedImage(data, 1_000_000).decode()
    assert time.thread_time() - started_at < LIMIT_S
    return pixels


@pytest.fixture(scope="module")
def photo(make_photo: MakePhoto) -> Image.Image:
    return make_photo(90, 70)


def jpeg_segments() -> dict[str, bytes]:
    found = {f"EXIF: {name}": segment(0xE1, b"Exif\0\0" + exif) for name, exif in EXIF.items()}
    found |= {f"XMP: {name}": segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + xmp) for name, xmp in XMP.items()}
    found |= {f"APP{n} of noise": segment(0xE0 + n, NOISE) for n in range(16)}
    found |= {f"empty APP{n}": segment(0xE0 + n, b"") for n in range(16)}
    found["short JFIF"] = segment(0xE0, b"JFIF\0")
    found["short Adobe"] = segment(0xEE, b"Adobe\0d")
    found["broken multi-picture index"] = segment(0xE2, b"MPF\0" + NOISE)
    found["broken Photoshop resources"] = segment(0xED, b"Photoshop 3.0\0" + b"8BIM" + NOISE)
    found["ICC profile of noise"] = segment(0xE2, b"ICC_PROFILE\0\1\1" + NOISE)
    found["ICC profile with a part missing"] = segment(0xE2, b"ICC_PROFILE\0\2\7" + NOISE)
    found["short ICC profile"] = segment(0xE2, b"ICC_PROFILE\0")
    found["comments"] = segment(0xFE, NOISE) * 500
    found["a profile of 4 MB"] = b"".join(
        segment(0xE2, b"ICC_PROFILE\0" + bytes([n, 64]) + bytes(65_000)) for n in range(1, 65)
    )
    return found


@pytest.mark.parametrize("mode", ["RGB", "CMYK"])  # decoded by libjpeg-turbo in one call, and by Pillow
@pytest.mark.parametrize("name", jpeg_segments())
def test_jpeg(photo: Image.Image, encode: Encode, mode: str, name: str) -> None:
    plain = encode(photo.convert(mode), "JPEG")
    start = 4 + int.from_bytes(plain[4:6])  # after JFIF or Adobe
    assert np.array_equal(decode(plain[:start] + jpeg_segments()[name] + plain[start:]), decode(plain))


ANCILLARY = (
    *("tEXt", "zTXt", "iTXt", "iCCP", "eXIf", "gAMA", "cHRM"),
    *("sRGB", "pHYs", "tIME", "bKGD", "acTL", "fcTL", "abCd"),
)


def png_chunks() -> dict[str, bytes]:
    large = zlib.compress(bytes(2 * MB))
    found = {f"EXIF: {name}": chunk(b"eXIf", exif) for name, exif in EXIF.items()}
    found |= {f"XMP: {name}": chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp) for name, xmp in XMP.items()}
    found |= {f"{kind} with a wrong checksum": chunk(kind.encode(), b"a\0b", valid=False) for kind in ANCILLARY}
    found |= {f"{kind} of noise": chunk(kind.encode(), NOISE) for kind in ANCILLARY}
    found |= {f"empty {kind}": chunk(kind.encode()) for kind in ANCILLARY}
    found["zTXt of 2 MB"] = chunk(b"zTXt", b"a\0\0" + large)
    found["iTXt of 2 MB"] = chunk(b"iTXt", b"a\0\1\0\0\0" + large)
    found["XMP of 2 MB"] = chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + large)
    found["a profile of 2 MB"] = chunk(b"iCCP", b"a\0\0" + large)
    found["an EXIF profile of 2 MB"] = chunk(b"zTXt", b"Raw profile type exif\0\0" + large)
    found["an EXIF profile of words"] = chunk(b"tEXt", b"Raw profile type exif\0\nexif\n  8\nwords, no digits\n")
    found["text of 3 MB"] = chunk(b"tEXt", b"a\0" + b"b" * 3 * MB)
    found["text of 100 MB in all"] = chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(MB * 5 // 3))) * 60
    found["broken compression"] = chunk(b"zTXt", b"a\0\0" + NOISE) + chunk(b"iCCP", b"a\0\0" + NOISE)
    found["an unknown compression"] = chunk(b"zTXt", b"a\0\7" + NOISE) + chunk(b"iCCP", b"a\0\7" + NOISE)
    found["frames in a wrong order"] = chunk(b"acTL", struct.pack(">II", 2, 0)) + chunk(b"fcTL", bytes(26)) * 2
    found["transparency with a wrong checksum"] = chunk(b"tRNS", bytes(6), valid=False)
    found["a palette that is not needed"] = chunk(b"PLTE", bytes(768))
    return found


@pytest.mark.parametrize("place", ["before", "after"])
@pytest.mark.parametrize("name", png_chunks())
def test_png(photo: Image.Image, encode: Encode, name: str, place: str) -> None:
    plain = encode(photo)
    at = 33 if place == "before" else len(plain) - 12  # the image data
    assert np.array_equal(decode(plain[:at] + png_chunks()[name] + plain[at:]), np.asarray(photo))


def gif_extensions() -> dict[str, bytes]:
    def extension(label: int, blocks: list[bytes]) -> bytes:
        return b"\x21" + bytes([label]) + b"".join(bytes([len(block)]) + block for block in blocks) + b"\0"

    xmp = b"<x:xmpmeta>" + b"<rdf:li>words</rdf:li>" * 10_000
    found = {"XMP": b"\x21\xff\x0bXMP DataXMP" + xmp + bytes([1, *range(255, -1, -1), 0])}  # as Adobe writes it
    found["XMP in small blocks"] = extension(0xFF, [b"XMP DataXMP", *[b"0123456789"] * 20_000])
    found["5 MB of comments"] = extension(0xFE, [b"a" * 255] * 20_000)
    found["a thousand comments"] = extension(0xFE, [b"a"]) * 1500
    found["a profile"] = extension(0xFF, [b"ICCRGBG1012", NOISE[:255], NOISE[:200]])
    found["an unknown label"] = extension(0x77, [NOISE[:50]])
    found["an empty graphic control"] = extension(0xF9, [])
    found["a short graphic control"] = extension(0xF9, [b"\1"])
    found["an empty application"] = extension(0xFF, [])
    return found


@pytest.mark.parametrize("name", gif_extensions())
def test_gif(photo: Image.Image, encode: Encode, name: str) -> None:
    plain = encode(photo.quantize(64), "GIF")
    start = 13 + (3 << (plain[10] & 7) + 1)
    expected = np.asarray(Image.open(io.BytesIO(plain)).convert("RGB"))
    assert np.array_equal(decode(plain[:start] + gif_extensions()[name] + plain[start:]), expected)


def test_gif_keeps_its_transparency_between_many_extensions(encode: Encode) -> None:
    image = Image.new("P", (64, 64), 1)
    image.putpalette([0, 0, 0, 9, 9, 9])
    image.paste(0, (0, 0, 32, 64))
    plain = encode(image, "GIF", transparency=0)
    start = plain.index(b"\x21\xf9")
    comment = b"\x21\xfe\x01a\0"
    pixels = decode(plain[:start] + comment * 2000 + plain[start : start + 8] + comment * 2000 + plain[start + 8 :])
    assert (pixels[0, 0].tolist(), pixels[0, 63].tolist()) == ([255] * 3, [9] * 3)


def webp_metadata() -> dict[str, list[bytes]]:
    found = {f"EXIF: {name}": [webp_chunk(b"EXIF", exif)] for name, exif in EXIF.items()}
    found |= {f"XMP: {name}": [webp_chunk(b"XMP ", xmp)] for name, xmp in XMP.items()}
    found["a profile of noise"] = [webp_chunk(b"ICCP", NOISE)]
    found["an unknown chunk"] = [webp_chunk(b"abcd", NOISE)]
    found["EXIF that is cut off"] = [webp_chunk(b"EXIF", NOISE)[:-100]]
    found["a size behind the end"] = [b"EXIF" + struct.pack("<I", 0xFFFFFFF0) + NOISE]
    found["half a chunk header"] = [b"EXI"]
    found["two of each"] = [webp_chunk(b"EXIF", NOISE), webp_chunk(b"XMP ", NOISE)] * 2
    return found


@pytest.mark.parametrize("flags", [0, 0x2C], ids=["not announced", "announced"])
@pytest.mark.parametrize("name", webp_metadata())
def test_webp(make_photo: MakePhoto, encode: Encode, name: str, flags: int) -> None:
    data = extended_webp(make_photo, encode, flags, *webp_metadata()[name])
    assert np.array_equal(decode(data), np.asarray(make_photo(90, 70)))


@pytest.mark.parametrize("size", [0, 12, 0xFFFFFFFF])
def test_webp_with_a_wrong_size_in_its_header(make_photo: MakePhoto, encode: Encode, size: int) -> None:
    data = extended_webp(make_photo, encode, 0)
    assert np.array_equal(decode(data[:4] + struct.pack("<I", size) + data[8:]), np.asarray(make_photo(90, 70)))


PRIVATE_TAGS = {
    "a private tag of absurd size": [(65_000, 7, 0xFFFFFFFF, 8)],
    "absurd sizes": [(tag, 7, 0xFFFFFFFF, 8) for tag in range(65_000, 65_050)],
    "EXIF that contains itself": [(34_665, 4, 1, 8)],
    "a profile behind the end": [(34_675, 7, 50_000, 0xFFFFFF00)],
    "a description of numbers": [(270, 12, 3, 8)],
    "a resolution of text": [(282, 2, 3, 0x00616161), (283, 99, 1, 1), (296, 2, 1, 0)],
    "XMP of absurd size": [(700, 1, 0xFFFFFFFF, 8)],
    "Photoshop resources": [(34_377, 7, 30, 8), (37_724, 7, 0xFFFFFFF, 8)],
    "directories of thumbnails": [(330, 4, 2, 8)],
}


@pytest.mark.parametrize("name", PRIVATE_TAGS)
@pytest.mark.parametrize("compressed", [False, True])
def test_tiff(photo: Image.Image, name: str, compressed: bool) -> None:
    rows = np.asarray(photo).tobytes()
    stored = zlib.compress(rows) if compressed else rows
    entries = [(256, 4, 1, 90), (257, 4, 1, 70), (258, 3, 1, 8), (259, 3, 1, 8 if compressed else 1), (262, 3, 1, 2)]
    entries += [(277, 3, 1, 3), (278, 4, 1, 70), (279, 4, 1, len(stored)), *PRIVATE_TAGS[name]]
    start = len(directory([*entries, (273, 4, 1, 0)]))
    data = directory([*entries, (273, 4, 1, start)], stored)
    assert np.array_equal(decode(data), np.asarray(photo))


def avif_with(exif: bytes, photo: Image.Image, encode: Encode) -> bytes:
    """An AVIF image whose EXIF item is ``exif``, which Pillow would not write."""
    placeholder = directory([], b"?" * len(exif))
    data = encode(photo, "AVIF", exif=placeholder)
    assert data.count(placeholder) == 1
    return data.replace(placeholder, exif.ljust(len(placeholder), b"\0"))


@pytest.mark.parametrize("name", EXIF)
def test_avif(photo: Image.Image, encode: Encode, name: str) -> None:
    assert np.array_equal(decode(avif_with(EXIF[name], photo, encode)), decode(encode(photo, "AVIF")))


def test_avif_whose_exif_entries_repeat_a_large_block(photo: Image.Image, encode: Encode) -> None:
    block = directory([(tag, 7, MB, 8) for tag in range(4000)], os.urandom(MB))
    assert np.array_equal(decode(avif_with(block, photo, encode)), decode(encode(photo, "AVIF")))
