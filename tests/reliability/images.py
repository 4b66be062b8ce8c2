"""Encoded images for the suite: distinguishable ones, photos, damaged ones, and files built to exhaust a decoder."""

import io
import random
import struct
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from tests.model.images.files import chunk, directory

LOSSLESS: dict[str, dict[str, bool]] = {"PNG": {}, "BMP": {}, "GIF": {}, "TIFF": {}, "WEBP": {"lossless": True}}
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
_MB = 1_000_000


def encode(image: Image.Image, format: str, **options: object) -> bytes:  # noqa: A002 - Pillow's name
    """The encoded image."""
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def gray(level: int, format: str = "PNG") -> bytes:  # noqa: A002 - Pillow's name
    """An image that the fault server classifies as class ``level``."""
    return encode(Image.new("RGB", (12, 10), (level, level, level)), format, **LOSSLESS[format])


def photo(width: int = 500, height: int = 375, seed: int = 0) -> Image.Image:
    """An image with smooth areas, edges and noise."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    smooth = np.stack([255 * x / width, 255 * y / height, 127 + 127 * np.sin((x + y + 40 * seed) / 17)], axis=2)
    noisy = smooth + generator.normal(0, 12, smooth.shape)
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def sources() -> dict[str, bytes]:
    """One small valid file of each format and of the variants that decoders treat differently."""
    image = photo(61, 47)
    files = {name: encode(image, name) for name in FORMATS}
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits"):
        files[f"TIFF {compression}"] = encode(image, "TIFF", compression=compression)
    files["progressive JPEG"] = encode(image, "JPEG", progressive=True)
    files["palette PNG"] = encode(image.convert("P"), "PNG")
    files["RGBA PNG"] = encode(image.convert("RGBA"), "PNG")
    files["16-bit PNG"] = encode(Image.fromarray(np.arange(3600, dtype=np.uint16).reshape(60, 60)), "PNG")
    files["animated GIF"] = encode(image, "GIF", save_all=True, append_images=[photo(61, 47, 1)])
    files["lossless WEBP"] = encode(image, "WEBP", lossless=True)
    files |= _sources_with_metadata(image)
    return files


def _sources_with_metadata(image: Image.Image) -> dict[str, bytes]:
    exif = Image.Exif()
    exif[0x0112] = 6
    xmp = b'<x tiff:Orientation="6"/>'
    text = PngInfo()
    text.add_itxt("XML:com.adobe.xmp", xmp.decode(), zip=True)
    files = {f"{name} with EXIF and XMP": encode(image, name, exif=exif, xmp=xmp) for name in ("JPEG", "WEBP", "AVIF")}
    files["PNG with EXIF and XMP"] = encode(image, "PNG", exif=exif, pnginfo=text)
    files["GIF with a comment"] = encode(image, "GIF", comment=b"words", transparency=0)
    files["JPEG without end marker"] = encode(image, "JPEG", restart_marker_blocks=4)[:-2]
    planes = np.moveaxis(np.asarray(image).astype("<u2") * 257, -1, 0)  # (3, H, W)
    sizes = [(256, 3, 1, image.width), (257, 3, 1, image.height), (258, 3, 1, 16), (262, 3, 1, 2), (277, 3, 1, 3)]
    offsets = [(273, 4, 3, 400), (278, 3, 1, image.height), (279, 4, 3, 412), (284, 3, 1, 2), (274, 3, 1, 6)]
    rows = struct.pack("<6L", *(424 + planes[0].nbytes * plane for plane in range(3)), *[planes[0].nbytes] * 3)
    files["TIFF of separate 16-bit planes"] = (
        directory(sizes + offsets, b"").ljust(400, b"\0") + rows + planes.tobytes()
    )
    return files


def damaged(data: bytes, generator: random.Random) -> bytes:
    """``data`` truncated, with changed bytes, with a hole, or with a block repeated."""
    content = bytearray(data)
    size = len(content)
    start, end = sorted(generator.randrange(size + 1) for _ in range(2))
    match generator.randrange(4):
        case 0:
            del content[start:]
        case 1:
            del content[start:end]
        case 2:
            content[start:start] = content[start:end] * generator.randrange(1, 4)
        case _:
            reach = min(size, generator.choice((64, 400, size)))  # most of what can go wrong is in headers
            for _ in range(generator.randrange(1, 6)):
                content[generator.randrange(reach)] = generator.choice(
                    (0, 1, 0x7F, 0x80, 0xFF, generator.randrange(256))
                )
    return bytes(content)


def bombs() -> Iterator[tuple[str, bytes]]:
    """Name and content of files whose decoding would take far more time or memory than their size suggests."""
    yield from _jpeg_bombs()
    yield from _png_bombs()
    small = encode(Image.new("P", (8, 8)), "GIF")
    palette = 13 + (3 * (2 << (small[10] & 7)) if small[10] & 0x80 else 0)
    comment = b"\x21\xfe" + (b"\xff" + b"a" * 255) * (10 * _MB // 256) + b"\0"
    yield "GIF with 10 MB of comments", small[:palette] + comment + small[palette:]
    yield "GIF of 65535 x 65535 pixels", b"GIF89a\xff\xff\xff\xff\0\0\0,\0\0\0\0\xff\xff\xff\xff\0\2\0;"
    tile = [(256, 4, 1, 1), (257, 4, 1, 1), (258, 3, 1, 8), (259, 3, 1, 5), (262, 3, 1, 1), (277, 3, 1, 1)]
    tile += [(322, 4, 1, 32768), (323, 4, 1, 16384), (324, 4, 1, 8), (325, 4, 1, 100)]
    yield "TIFF with a tile of 537 million pixels", directory(tile, bytes(200))
    repeated = [(256, 4, 1, 1), (257, 4, 1, 1), *((tag, 7, _MB, 8) for tag in range(1000, 5000))]
    yield "TIFF whose entries repeat a block", directory(repeated, bytes(_MB))
    yield from _metadata_bombs()
    for name in ("JPEG", "PNG", "WEBP", "BMP"):
        yield f"{name} at the pixel limit", encode(Image.new("RGB", (3160, 3160), "gray"), name)
    yield "RGBA PNG at the pixel limit", encode(Image.new("RGBA", (3160, 3160)), "PNG")
    deep = Image.fromarray(np.zeros((3160, 3160), np.uint16))
    exif = Image.Exif()
    exif[0x0112] = 6
    yield "rotated 16-bit PNG at the pixel limit", encode(deep, "PNG", exif=exif)


def _metadata_bombs() -> Iterator[tuple[str, bytes]]:
    small = encode(Image.new("P", (8, 8)), "GIF")
    start = small.index(b",")
    yield "GIF with 5 million blocks", small[:start] + b"\x21\xff" + b"\1a" * (5 * _MB) + b"\0" + small[start:]
    yield "GIF with 2 million extensions", small[:start] + b"\x21\xfe\1a\0" * (2 * _MB) + small[start:]
    fields = struct.pack("<IiiHHIIiiII", 40, 3160, 3160, 1, 8, 1, 0, 0, 0, 0, 0) + bytes(1024)
    for count in (1_900_000, 5_000_000):
        runs = b"\1\7" * count
        yield f"BMP with {count} runs", b"BM" + struct.pack("<IHHI", 0, 0, 0, 54 + 1024) + fields + runs
    webp = encode(Image.new("RGB", (8, 8)), "WEBP")
    extended = b"VP8X\x0a\0\0\0" + bytes([0, 0, 0, 0, 7, 0, 0, 7, 0, 0])
    yield "WEBP with a million chunks", webp[:12] + extended + b"abcd\0\0\0\0" * _MB + webp[12:]
    entries = struct.pack("<HHQQ", 65_000, 7, _MB, 8) * (_MB // 2)
    yield "BigTIFF with 500,000 entries", b"II+\0\x08\0\0\0" + struct.pack("<QQ", 16, _MB // 2) + entries + bytes(8)
    block = directory([(tag, 7, _MB, 8) for tag in range(4000)], bytes(_MB))
    placeholder = directory([], bytes(len(block)))
    image = Image.new("RGB", (8, 8))
    yield (
        "AVIF whose EXIF entries repeat a block",
        encode(image, "AVIF", exif=placeholder).replace(placeholder, block.ljust(len(placeholder), b"\0")),
    )
    png = encode(image, "PNG")
    profile = chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(bytes(100 * _MB), 9))
    yield "PNG whose EXIF profile inflates to 100 MB", png[:33] + profile + png[33:]
    words = chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + b"tiff:Orientation=" * _MB)
    yield "PNG with 17 MB of XMP", png[:33] + words + png[33:]
    jpeg = encode(photo(3160, 3160), "JPEG", restart_marker_blocks=1)
    yield "JPEG of zeros without end marker", jpeg[: len(jpeg) // 2] + bytes(5 * _MB)


def _jpeg_bombs() -> Iterator[tuple[str, bytes]]:
    data = encode(photo(64, 64), "JPEG", progressive=True)
    first = data.index(b"\xff\xda")
    second = data.index(b"\xff", first + 12)
    while data[second + 1] in (0x00, *range(0xD0, 0xD8)):
        second = data.index(b"\xff", second + 2)
    yield "JPEG with 5000 scans", data[:second] + data[first:second] * 5000 + data[second:]
    small = encode(Image.new("RGB", (8, 8)), "JPEG")
    yield "JPEG with millions of comments", small[:2] + b"\xff\xfe\0\2" * (10 * _MB // 4) + small[2:]
    block = directory([(tag, 7, 60_000, 8) for tag in range(4000)], bytes(10_000))
    segments = b""
    for start in range(0, len(block), 60_000):
        content = b"Exif\0\0" + block[start : start + 60_000]
        segments += b"\xff\xe1" + struct.pack(">H", len(content) + 2) + content
    yield "JPEG whose EXIF entries repeat a block", small[:2] + segments + small[2:]


def _png_bombs() -> Iterator[tuple[str, bytes]]:
    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 0, 0, 0, 0)
    signature = b"\x89PNG\r\n\x1a\n"
    yield "PNG of 100000 x 100000 pixels", signature + chunk(b"IHDR", header) + chunk(b"IDAT") + chunk(b"IEND")
    small = encode(Image.new("RGB", (8, 8)), "PNG")
    text = zlib.compress(bytes(_MB), 9)
    for kind, prefix in ((b"zTXt", b"a\0\0"), (b"iTXt", b"a\0\1\0\0\0"), (b"iCCP", b"a\0\0")):
        compressed = chunk(kind, prefix + text)
        name = f"PNG with thousands of {kind.decode()} chunks"
        yield name, small[:33] + compressed * (5 * _MB // len(compressed)) + small[33:]
    yield "PNG with millions of chunks", small[:33] + chunk(b"tEXt", b"a\0") * (10 * _MB // 14) + small[33:]
    endless = chunk(b"IDAT", zlib.compress(bytes(100 * _MB), 9))
    yield "PNG with 100 MB of surplus pixels", small[:33] + endless + chunk(b"IEND")
