"""Photos per second from JPEG bytes to pixels, by number of threads."""

import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from benchmarks.gpu.step import photos_of, start
from model.images.transform import Transform, preprocess
from model.inference.cpu import available_cores

THREADS = (1, 2, 4, 8, 16)
SIZES = {"500×375, 110 kB": (500, 375, 110_000), "1632×1224": (1632, 1224, None)}
SECONDS = 3.0


def rate(photos: list[bytes], threads: int, seconds: float) -> float:
    """Photos per second of ``threads`` threads."""
    read = partial(preprocess, transform=Transform(236))
    read(photos[0])  # imports decoders
    deadline = time.perf_counter() + seconds

    def work(index: int) -> int:
        done = 0
        while time.perf_counter() < deadline:
            read(photos[(index + done) % len(photos)])
            done += 1
        return done

    with ThreadPoolExecutor(threads) as pool:
        started = time.perf_counter()
        done = sum(pool.map(work, range(threads)))
        return done / (time.perf_counter() - started)


def main() -> None:
    options, results = start(__doc__)
    seconds = 0.2 if options.small else SECONDS
    results.add("cores", available_cores())
    for name, (width, height, size_bytes) in SIZES.items():
        photos = photos_of(4 if options.small else 16, width, height, size_bytes)
        for threads in THREADS:
            if options.seconds_left > seconds + 1:
                results.add(f"{name} on {threads} threads", rate(photos, threads, seconds))


if __name__ == "__main__":
    main()
