"""Images a second and core from JPEG bytes to pixels, by the photo's size, beside plain Pillow and torchvision.

    python -m benchmarks.preprocess

For each size it also prints how far the pixels are from those of the same photo decoded at full scale.
"""

import argparse
import io
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from PIL import Image
from torchvision.io import decode_jpeg
from torchvision.transforms.v2 import functional as F

from benchmarks.photos import make_photos
from benchmarks.rounds import alternate, keep, median_seconds, ratios, spread
from model.preprocess import Transform, crop, preprocess

SIZES = {"0.2 MP": (500, 375), "0.5 MP": (816, 612), "2 MP": (1632, 1224), "12 MP": (4000, 3000)}
TRANSFORM = Transform(236)


def with_pillow(photo: bytes) -> np.ndarray:
    """The whole photo decoded, resized and cropped by Pillow."""
    with Image.open(io.BytesIO(photo)) as image:
        return crop(image.convert("RGB"), TRANSFORM)


def with_torchvision(photo: bytes) -> torch.Tensor:
    """torchvision's decoder and its resize of tensors."""
    image = decode_jpeg(torch.frombuffer(bytearray(photo), dtype=torch.uint8))
    return F.center_crop(F.resize(image, TRANSFORM.resize_size, antialias=True), TRANSFORM.crop_size)


def rate(read: Callable[[bytes], object], photos: list[bytes], seconds: float) -> float:
    """Photos a second."""
    return len(photos) / median_seconds(lambda: [read(photo) for photo in photos], seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.5, help="of each measurement")
    options = parser.parse_args()
    torch.set_num_threads(1)
    kept: dict[str, dict[str, list[float]]] = {}
    for label, (width, height) in SIZES.items():
        photos = make_photos(4, width, height)
        readers: dict[str, Callable[[bytes], object]] = {
            "this project": partial(preprocess, transform=TRANSFORM),
            "Pillow": with_pillow,
            "torchvision": with_torchvision,
        }
        contenders = {name: partial(rate, read, photos, options.seconds) for name, read in readers.items()}
        kept[label] = figures = alternate(contenders, options.rounds)
        print(f"\n{label}, {sum(map(len, photos)) / len(photos) / 1000:.0f} kB: images/s, and as a ratio to Pillow")
        for name in contenders:
            print(f"  {name:16} {spread(figures[name], 1):24} {spread(ratios(figures, name, 'Pillow'))}")
        apart = [np.abs(preprocess(one, TRANSFORM).astype(int) - with_pillow(one).astype(int)).mean() for one in photos]
        print(f"  mean difference to the full decode, in levels of 256: {np.mean(apart):.3f}")
    print(f"\nkept in {keep('preprocess', kept)}")


if __name__ == "__main__":
    main()
