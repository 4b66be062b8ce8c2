"""HEIF files by their brands: AVIF, which Pillow decodes, and HEIC, which the optional package pi-heif decodes."""

import importlib
import importlib.util
from typing import Literal

_AVIF_BRANDS = (b"avif", b"avis")
_HEIC_PREFIXES = (b"hei", b"hev", b"MiH")  # heic, heix, …; hevc, hevx, …; Apple's
_CONTAINER_BRANDS = (b"mif1", b"mif2", b"mif3", b"msf1", b"miaf", b"MiPr")  # of images in any coding
_AV1_ITEM = b"av01"
_MAX_BRANDS = 64
_HEADER_BYTES = 65_536  # in which the types of the items are


def register_heif_decoder() -> None:
    """Lets Pillow open HEIC images with pi-heif, on one thread each, if it is installed."""
    if importlib.util.find_spec("pi_heif") is not None:
        pi_heif = importlib.import_module("pi_heif")
        pi_heif.register_heif_opener(decode_threads=1, thumbnails=False, depth_images=False, aux_images=False)


def find_heif_format(data: bytes) -> Literal["AVIF", "HEIF"] | None:
    """The coding of a HEIF file: the first brand that names one decides; None if ``data`` is no image of this kind."""
    if data[4:8] != b"ftyp":
        return None
    end = min(int.from_bytes(data[:4]), len(data), 16 + 4 * _MAX_BRANDS)
    brands = [data[8:12], *(data[start : start + 4] for start in range(16, end, 4))]
    for brand in brands:
        if brand in _AVIF_BRANDS:
            return "AVIF"
        if brand.startswith(_HEIC_PREFIXES):
            return "HEIF"
    if not any(brand in _CONTAINER_BRANDS for brand in brands):
        return None
    return "AVIF" if data.find(_AV1_ITEM, 0, _HEADER_BYTES) >= 0 else "HEIF"
