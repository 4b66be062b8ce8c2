"""convnext-serve predict: classifies files without a server, and writes each result as soon as it is available."""

import argparse
import contextlib
import queue
import sys
import threading
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

from app.cli.output import COLUMNS, Format, as_csv, as_json_line, as_text, csv_rows, print_error, reason, resume
from app.logs import configure_logging
from app.main import build_engine
from app.settings import Settings
from model.errors import ImageTooLarge, InvalidImage, UnsupportedFormat
from model.head import scores, top_predictions
from model.images.transform import Pixels, preprocess
from model.inference.cpu import available_cores
from model.inference.engine import InferenceEngine

SUFFIXES = {".jpg", ".jpeg", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".heic", ".heif"}

Logits = npt.NDArray[np.float32]
Decoded = tuple[str, Pixels | Exception]
Decoding = tuple[str, Future[Pixels | Exception]]


def run(settings: Settings, options: argparse.Namespace) -> int:
    """Classifies ``options.files``; returns 1 if one of them could not be classified."""
    configure_logging("text", "warning", sys.stderr)
    engine = build_engine(settings)
    top_k = min(settings.top_k, engine.num_classes)
    try:
        done = resume(options.output, top_k) if options.output else set()
    except ValueError as error:
        print_error(str(error))
        return 2
    failed = False
    with _output(options) as (stream, format_result):
        for file, result in classify_files(_expand(options.files, done), engine, settings):
            if isinstance(result, Exception):
                print_error(f"{file}: {reason(result)}")
                failed = True
                continue
            predictions = top_predictions(scores(result, engine.model.activation), engine.model.labels, top_k)
            stream.write(format_result(file, engine.model.name, predictions))
            stream.flush()
    return 1 if failed else 0


@contextlib.contextmanager
def _output(options: argparse.Namespace) -> Iterator[tuple[IO[str], Format]]:
    if options.output is None:
        yield sys.stdout, as_json_line if options.json else as_text
        return
    with options.output.open("a", encoding="utf-8", errors="surrogateescape", newline="") as stream:
        is_json = options.output.suffix == ".jsonl"
        if not is_json and stream.tell() == 0:
            stream.write(csv_rows([COLUMNS]))
        yield stream, as_json_line if is_json else as_csv


def _expand(names: Iterable[str], done: Collection[str]) -> Iterator[str]:
    """The files that ``names`` stand for: folders hold theirs, and - the names on standard input, as they arrive."""
    for name in names:
        if name == "-":
            yield from _expand((line.rstrip("\n") for line in sys.stdin if line.strip()), done)
        elif Path(name).is_dir():
            files = sorted(path for path in Path(name).rglob("*") if path.suffix.lower() in SUFFIXES)
            yield from (str(path) for path in files if str(path) not in done)
            if not files:
                yield name  # an error
        elif name not in done:
            yield name


def classify_files(
    files: Iterator[str], engine: InferenceEngine, settings: Settings
) -> Iterator[tuple[str, Logits | Exception]]:
    """The logits ``(num_classes,)`` of each file, in order, or why there are none."""
    for batch in _decode_batches(files, engine, settings):
        images = [pixels for _, pixels in batch if not isinstance(pixels, Exception)]
        rows: Iterator[Logits] = iter(engine.predict(images) if images else ())
        for file, pixels in batch:
            if isinstance(pixels, Exception):
                yield file, pixels
            elif np.isfinite(logits := next(rows)).all():
                yield file, logits
            else:
                yield file, InvalidImage("The network returned a result that is not finite for this image.")


def _decode_batches(files: Iterator[str], engine: InferenceEngine, settings: Settings) -> Iterator[list[Decoded]]:
    """Decoded images in order, in batches of what is there; later ones are decoded in the meantime."""
    decoding: queue.Queue[Decoding | BaseException | None] = queue.Queue(4 * engine.max_batch_size)

    def decode(file: str) -> Pixels | Exception:
        try:
            if Path(file).is_dir():
                return UnsupportedFormat("There are no images in this folder.")
            return preprocess(Path(file).read_bytes(), engine.model.transform, settings.max_image_pixels)
        except (InvalidImage, UnsupportedFormat, ImageTooLarge, OSError) as error:
            return error
        except MemoryError:
            return InvalidImage("There is not enough memory to decode the image.")

    def read() -> None:
        try:
            for file in files:
                decoding.put((file, decoders.submit(decode, file)))
            decoding.put(None)
        except BaseException as error:  # noqa: BLE001 - raised again below, in the thread that waits
            decoding.put(error)

    decoders = ThreadPoolExecutor(settings.decode_threads or available_cores())
    try:
        threading.Thread(target=read, name="file names", daemon=True).start()
        while batch := _next_batch(decoding, engine.max_batch_size):
            yield [(file, future.result()) for file, future in batch]
    finally:
        decoders.shutdown(wait=False, cancel_futures=True)


def _next_batch(decoding: "queue.Queue[Decoding | BaseException | None]", size: int) -> list[Decoding]:
    """Waits for one image and takes what else is there; empty at the end."""
    batch: list[Decoding] = []
    while len(batch) < size and not (batch and decoding.empty()):
        match decoding.get():
            case None:
                decoding.put(None)
                break
            case BaseException() as error:
                raise error
            case item:
                batch.append(item)
    return batch
