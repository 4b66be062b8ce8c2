"""Different photos of a given size for the benchmarks: crops of sample images."""

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image


def make_photos(
    count: int,
    width: int,
    height: int,
    size_bytes: int | None = None,
    seed: int = 0,
    sources: Sequence[Image.Image] | None = None,
) -> list[bytes]:
    """``count`` different JPEGs of ``width`` × ``height`` pixels, each of about ``size_bytes`` if that is given.

    They are cut out of ``sources``, by default scikit-image's.
    """
    random = np.random.default_rng(seed)
    sources = sources or _samples()
    return [_encode(_crop(sources[index % len(sources)], width, height, random), size_bytes) for index in range(count)]


def _samples() -> list[Image.Image]:
    from skimage import data  # downloads nothing; not needed if there are other sources

    loaders = (data.chelsea, data.coffee, data.astronaut, data.rocket)
    return [Image.fromarray(load()).convert("RGB") for load in loaders]  # type: ignore[no-untyped-call]  # lazy


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
