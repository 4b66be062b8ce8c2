"""How often the most probable class equals float32's, by precision: the embedded model on photos.

The photos are the image files in the folder ``--photos``, or else cut out of a few samples, which says less.
"""

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.gpu.step import photos_of, start
from model import DEFAULT_MODEL, load_model
from model.images.transform import Pixels, preprocess
from model.inference.engine import InferenceEngine, Precision

PHOTOS = 2500


def read_photos(folder: Path | None, count: int) -> list[bytes]:
    """Encoded photos."""
    if folder is None:
        return photos_of(min(count, 500), 128, 128)
    return [path.read_bytes() for path in sorted(path for path in folder.rglob("*") if path.is_file())[:count]]


def classes_of(engine: InferenceEngine, pixels: list[Pixels]) -> npt.NDArray[np.int64]:
    """The most probable class of each image."""
    step = engine.max_batch_size
    parts = [engine.predict(pixels[first : first + step]) for first in range(0, len(pixels), step)]
    classes: npt.NDArray[np.int64] = np.concatenate(parts).argmax(1)
    return classes


def main() -> None:
    options, results = start(__doc__)
    model = load_model(DEFAULT_MODEL)
    photos = read_photos(options.photos, 50 if options.small else PHOTOS)
    with ThreadPoolExecutor() as threads:
        pixels = list(threads.map(partial(preprocess, transform=model.transform), photos))
    results.add("photos", {"count": len(photos), "folder": str(options.photos)})
    classes = {}
    precisions: tuple[Precision, ...] = ("float32", "float16", "bfloat16", "auto")
    for precision in precisions:
        with results.attempt(precision):
            engine = InferenceEngine(model, device=options.device, precision=precision)
            engine.warm_up()
            classes[precision] = classes_of(engine, pixels)
            equal = float((classes[precision] == classes["float32"]).mean())
            results.add(precision, {"mode": engine.mode, "precision": engine.precision, "equal": equal})


if __name__ == "__main__":
    main()
