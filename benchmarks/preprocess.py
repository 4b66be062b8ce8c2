"""Photos per second from JPEG bytes to pixels, with Pillow and torchvision as baselines, in one run.

    python -m benchmarks.preprocess

By size on one thread, per second of its CPU time; and for the smallest size on two threads, alone and beside a thread
that keeps the interpreter busy, as the event loop of the service does.
"""

import argparse
import io
import sys
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import torch
from PIL import Image
from torchvision.io import decode_jpeg
from torchvision.transforms import functional as pillow_functional
from torchvision.transforms.v2 import functional

from benchmarks.photos import make_photos
from benchmarks.rounds import alternate, keep, ratios, spread
from model.images.transform import Transform, preprocess

SIZES = {"0.2 MP": (500, 375), "0.5 MP": (816, 612), "2 MP": (1632, 1224), "12 MP": (4000, 3000)}
TRANSFORM = Transform(236)
SWITCH_INTERVALS_S = (0.005, 0.0005)
Reader = Callable[[bytes], object]


def with_pillow(photo: bytes) -> object:
    """Decoded at full scale, resized and cropped by Pillow."""
    with Image.open(io.BytesIO(photo)) as image:
        return _resized(image)


def with_pillow_draft(photo: bytes) -> object:
    """Decoded by Pillow at a reduced scale, at least twice the size that it is resized to."""
    with Image.open(io.BytesIO(photo)) as image:
        image.draft("RGB", (2 * TRANSFORM.resize_size, 2 * TRANSFORM.resize_size))
        return _resized(image)


def with_torchvision(photo: bytes) -> object:
    """Decoded at full scale by torchvision, resized and cropped as a tensor."""
    image = decode_jpeg(torch.frombuffer(bytearray(photo), dtype=torch.uint8))
    resized = functional.resize(image, [TRANSFORM.resize_size], antialias=True)
    return functional.center_crop(resized, [TRANSFORM.crop_size, TRANSFORM.crop_size])


def _resized(image: Image.Image) -> object:
    resized = pillow_functional.resize(image.convert("RGB"), [TRANSFORM.resize_size], antialias=True)
    return np.asarray(pillow_functional.center_crop(resized, [TRANSFORM.crop_size, TRANSFORM.crop_size]))


READERS: dict[str, Reader] = {
    "this project": partial(preprocess, transform=TRANSFORM),
    "Pillow": with_pillow,
    "Pillow, draft": with_pillow_draft,
    "torchvision": with_torchvision,
}


def rate(read: Reader, photos: list[bytes], seconds: float) -> float:
    """Photos per second of CPU time on one thread."""
    started, deadline = time.thread_time(), time.perf_counter() + seconds
    photos_read = _read_until(read, photos, deadline)
    return photos_read / (time.thread_time() - started)


def threaded_rate(read: Reader, photos: list[bytes], seconds: float, *, busy: bool, switch_interval_s: float) -> float:
    """Photos per second on two threads, beside a busy thread or not."""
    deadline = time.perf_counter() + seconds
    spinner = threading.Thread(target=_spin, args=(deadline,))
    sys.setswitchinterval(switch_interval_s)
    if busy:
        spinner.start()
    with ThreadPoolExecutor(2) as threads:
        photos_read = sum(threads.map(partial(_read_until, read, photos), [deadline] * 2))
    if busy:
        spinner.join()
    return photos_read / seconds


def _read_until(read: Reader, photos: list[bytes], deadline: float) -> int:
    count = 0
    while time.perf_counter() < deadline:
        read(photos[count % len(photos)])
        count += 1
    return count


def _spin(deadline: float) -> None:
    while time.perf_counter() < deadline:
        pass


def measure(title: str, candidates: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Prints and returns photos per second by reader, one value per round."""
    figures = alternate(dict(candidates), rounds)
    print(f"\n{title}: photos/s, and ratio to Pillow with draft()")
    for name in candidates:
        print(f"  {name:16} {spread(figures[name], 1):24} {spread(ratios(figures, name, 'Pillow, draft'))}", flush=True)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.5, help="of each measurement")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rounds, seconds = options.rounds, options.seconds
    rates: dict[str, dict[str, list[float]]] = {}
    for label, size in SIZES.items():
        photos = make_photos(4, *size)
        candidates = {name: partial(rate, read, photos, seconds) for name, read in READERS.items()}
        rates[label] = measure(label, candidates, rounds)
    threads: dict[str, dict[str, list[float]]] = {}
    photos = make_photos(4, *SIZES["0.2 MP"])
    for busy in (False, True):
        for interval_s in SWITCH_INTERVALS_S:
            title = (
                f"0.2 MP, two threads{' beside a busy one' if busy else ''}, switch interval {1000 * interval_s:g} ms"
            )
            options_of = partial(threaded_rate, photos=photos, seconds=seconds, busy=busy, switch_interval_s=interval_s)
            threads[title] = measure(title, {name: partial(options_of, read) for name, read in READERS.items()}, rounds)
    print(f"\nresults in {keep('preprocess', {'rates': rates, 'two threads': threads})}")


if __name__ == "__main__":
    main()
