"""Journal: the lines that a run leaves behind, for people on the terminal and for programs in a JSONL file."""

import json
import time
from pathlib import Path
from typing import Any


class Journal:
    """Appends records to a JSONL file and prints a line for each."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)

    def write(self, record: dict[str, Any]) -> None:  # Any: whatever JSON can hold
        with self._path.open("a") as file:
            file.write(json.dumps(record) + "\n")
        print(" · ".join(f"{key} {_short(value)}" for key, value in record.items()), flush=True)

    def cut_after(self, step: int) -> None:
        """Forgets the records past ``step``, which a resumed run will write again."""
        records = [record for record in read_journal(self._path) if record["step"] <= step]
        self._path.write_text("".join(json.dumps(record) + "\n" for record in records))


def read_journal(path: Path) -> list[dict[str, Any]]:
    """All records of a JSONL file, oldest first; none where there is no file."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines()]


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


class Meter:
    """Means of loss and accuracy and the speed since the last reading."""

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self._loss, self._accuracy, self._steps, self._images = 0.0, 0.0, 0, 0
        self._start = time.perf_counter()

    def add(self, loss: float, accuracy: float, images: int) -> None:
        self._loss += loss
        self._accuracy += accuracy
        self._images += images
        self._steps += 1

    def read(self) -> dict[str, float]:
        """``loss``, ``train_top1`` (percent) and ``img_per_s`` since the last call; starts anew."""
        seconds = time.perf_counter() - self._start
        reading = {
            "loss": self._loss / self._steps,
            "train_top1": 100 * self._accuracy / self._steps,
            "img_per_s": self._images / seconds,
        }
        self._reset()
        return reading
