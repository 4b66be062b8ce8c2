"""Images a second and core from JPEG bytes to pixels, by the photo's size, beside plain Pillow and torchvision.

    python -m benchmarks.preprocess
    python -m benchmarks.preprocess --data DIR

For each size it also prints how far the pixels are from those of the same photo decoded at full scale. The second form
counts instead what that costs in accuracy: the validation photos of Tiny ImageNet-200, enlarged to JPEGs that are
decoded at a reduced scale, are classified by the embedded model from either decoding.
"""

import argparse
import io
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchvision.io import decode_jpeg
from torchvision.transforms.v2 import functional as F

from benchmarks.photos import make_photos
from benchmarks.rounds import alternate, keep, median_seconds, ratios, spread
from model import load_model
from model.inference.engine import InferenceEngine, available_cores
from model.preprocess import Transform, crop, preprocess
from training.data import VAL_FILE, read_encoded
from training.evaluate import SERVED

SIZES = {"0.2 MP": (500, 375), "0.5 MP": (816, 612), "2 MP": (1632, 1224), "12 MP": (4000, 3000)}
TRANSFORM = Transform(236)
ENLARGED = 1200  # pixels a side: decoded at half of it


def with_pillow(photo: bytes, transform: Transform = TRANSFORM) -> np.ndarray:
    """The whole photo decoded, resized and cropped by Pillow."""
    with Image.open(io.BytesIO(photo)) as image:
        return crop(image.convert("RGB"), transform)


def with_torchvision(photo: bytes) -> torch.Tensor:
    """torchvision's decoder and its resize of tensors."""
    image = decode_jpeg(torch.frombuffer(bytearray(photo), dtype=torch.uint8))
    return F.center_crop(F.resize(image, TRANSFORM.resize_size, antialias=True), TRANSFORM.crop_size)


def rate(read: Callable[[bytes], object], photos: list[bytes], seconds: float) -> float:
    """Photos a second."""
    return len(photos) / median_seconds(lambda: [read(photo) for photo in photos], seconds)


def measure_rates(rounds: int, seconds: float) -> dict[str, object]:
    """Prints and gives each reader's photos a second, and the difference in levels, by the photo's size."""
    kept: dict[str, dict[str, list[float]]] = {}
    differences: dict[str, float] = {}
    for label, (width, height) in SIZES.items():
        photos = make_photos(4, width, height)
        readers: dict[str, Callable[[bytes], object]] = {
            "this project": partial(preprocess, transform=TRANSFORM),
            "Pillow": with_pillow,
            "torchvision": with_torchvision,
        }
        contenders = {name: partial(rate, read, photos, seconds) for name, read in readers.items()}
        kept[label] = figures = alternate(contenders, rounds)
        print(f"\n{label}, {sum(map(len, photos)) / len(photos) / 1000:.0f} kB: images/s, and as a ratio to Pillow")
        for name in contenders:
            print(f"  {name:16} {spread(figures[name], 1):24} {spread(ratios(figures, name, 'Pillow'))}")
        apart = [np.abs(preprocess(one, TRANSFORM).astype(int) - with_pillow(one).astype(int)).mean() for one in photos]
        differences[label] = float(np.mean(apart))
        print(f"  mean difference to the full decode, in levels of 256: {differences[label]:.3f}")
    return {"rates": kept, "mean difference in levels": differences}


def measure_accuracy(data: Path) -> dict[str, object]:
    """Prints and gives the embedded model's top-1 in percent on enlarged photos, at a reduced and at full scale."""
    encoded, labels = read_encoded(data / VAL_FILE)
    engine = InferenceEngine(load_model(str(SERVED)))
    sharp = replace(engine.model.transform, detail_size=None)  # so that what is decoded is seen, not first reduced
    top1: dict[str, float] = {}
    for name, transform in (("as served", engine.model.transform), ("not reduced first", sharp)):
        hits = {"reduced scale": 0, "full scale": 0}
        with ProcessPoolExecutor(available_cores()) as pool:
            pairs = pool.map(partial(read_both, transform=transform), encoded, chunksize=50)
            for (reduced, full), label in zip(pairs, labels, strict=True):
                both = engine.predict([reduced, full], 1).class_ids[:, 0] == label
                hits["reduced scale"] += int(both[0])
                hits["full scale"] += int(both[1])
        top1 |= {f"{name}, {scale}": 100 * count / len(labels) for scale, count in hits.items()}
    for name, value in top1.items():
        print(f"{name}: {value:.2f} % of {len(labels)} photos")
    return {"top-1 of enlarged photos": top1}


def read_both(photo: bytes, transform: Transform) -> tuple[np.ndarray, np.ndarray]:
    """The pixels of an enlarged photo, decoded at a reduced and at full scale."""
    with Image.open(io.BytesIO(photo)) as image:
        enlarged = image.convert("RGB").resize((ENLARGED, ENLARGED), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    enlarged.save(file, "JPEG", quality=90)
    return preprocess(file.getvalue(), transform), with_pillow(file.getvalue(), transform)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.5, help="of each measurement")
    parser.add_argument("--data", type=Path, help="folder of val.npz: measure accuracy instead of speed")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.data:
        print(f"\nkept in {keep('accuracy', measure_accuracy(options.data))}")
    else:
        print(f"\nkept in {keep('preprocess', measure_rates(options.rounds, options.seconds))}")


if __name__ == "__main__":
    main()
