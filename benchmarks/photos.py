"""Different photos of a given size for the benchmarks: crops of scikit-image's sample images."""

import io

import numpy as np
from PIL import Image
from skimage import data

_SOURCES = (data.chelsea, data.coffee, data.astronaut, data.rocket)


def make_photos(count: int, width: int, height: int, size_bytes: int | None = None, seed: int = 0) -> list[bytes]:
    """``count`` different JPEGs of ``width`` × ``height`` pixels, each of about ``size_bytes`` if that is given."""
    random = np.random.default_rng(seed)
    sources = [Image.fromarray(load()).convert("RGB") for load in _SOURCES]  # type: ignore[no-untyped-call]  # lazy
    return [_encode(_crop(sources[index % len(sources)], width, height, random), size_bytes) for index in range(count)]


def _crop(source: Image.Image, width: int, height: int, random: np.random.Generator) -> Image.Image:
    share = random.uniform(0.6, 1.0)
    side = np.array([min(source.width, source.height * width / height), 0])
    side[1] = side[0] * height / width
    left, top = random.uniform(0, 1, 2) * (np.array(source.size) - share * side)
    box = (left, top, left + share * side[0], top + share * side[1])
    enlarged = source.resize((width, height), Image.Resampling.LANCZOS, box)
    noise = random.normal(0, 4, (height, width, 3))  # enlarging smooths; a camera's photo has noise
    return Image.fromarray((np.asarray(enlarged) + noise).clip(0, 255).astype(np.uint8))


def _encode(image: Image.Image, size_bytes: int | None) -> bytes:
    """A JPEG of quality 85, or of the highest quality whose file has at most ``size_bytes``."""
    if size_bytes is None:
        return _jpeg(image, 85)
    low, high = 10, 98
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if len(_jpeg(image, middle)) <= size_bytes else (low, middle - 1)
    return _jpeg(image, low)


def _jpeg(image: Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()
