"""Messages on stderr, and results as text, JSON Lines or CSV."""

import csv
import io
import json
import sys
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import IO, Protocol

from model.head import Prediction

_COLUMNS = ("file", "rank", "class_id", "label", "probability")


def print_error(message: str) -> None:
    """Prints an error message."""
    print(f"convnext-serve: {message}", file=sys.stderr)  # noqa: T201 - the command's output


def reason(error: Exception) -> str:
    """What went wrong, without the number and the name of the file that an ``OSError`` adds."""
    return (isinstance(error, OSError) and error.strerror) or str(error)


class Writer(Protocol):
    """Writes the results of one image after the other."""

    @abstractmethod
    def write(self, file: str, model: str, predictions: Sequence[Prediction]) -> None:
        """Writes one result and flushes it."""


class TextWriter:
    """The name of each file, and a line per class."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def write(self, file: str, model: str, predictions: Sequence[Prediction]) -> None:
        """See ``Writer``."""
        rows = "".join(f"  {item.probability:6.1%}  {item.label}\n" for item in predictions)
        self._stream.write(f"{file}\n{rows}")
        self._stream.flush()


class JsonLinesWriter:
    """One JSON object per line."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def write(self, file: str, model: str, predictions: Sequence[Prediction]) -> None:
        """See ``Writer``."""
        result = {"file": file, "model": model, "predictions": [asdict(item) for item in predictions]}
        self._stream.write(json.dumps(result, allow_nan=False) + "\n")
        self._stream.flush()


class CsvWriter:
    """A row per class."""

    def __init__(self, stream: IO[str], *, header: bool) -> None:
        self._stream = stream
        self._rows = csv.writer(stream, lineterminator="\n")
        if header:
            self._rows.writerow(_COLUMNS)

    def write(self, file: str, model: str, predictions: Sequence[Prediction]) -> None:
        """See ``Writer``."""
        self._rows.writerows(
            (file, rank, item.class_id, item.label, item.probability) for rank, item in enumerate(predictions, start=1)
        )
        self._stream.flush()


def resume(path: Path, top_k: int) -> set[str]:
    """The files whose results are in ``path``, from which an incomplete last result is removed.

    Raises ``ValueError`` if ``path`` ends in neither .jsonl nor .csv, or holds something else.
    """
    if path.suffix not in (".jsonl", ".csv"):
        raise ValueError(f"{path} must end in .jsonl or .csv")
    if not path.exists():
        return set()
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as stream:
        text = stream.read()
    complete = text[: text.rfind("\n") + 1]
    try:
        if path.suffix == ".jsonl":
            files = {json.loads(line)["file"] for line in complete.split("\n") if line}
        else:
            complete, files = _complete_rows(complete, top_k)
    except (ValueError, LookupError, TypeError) as error:
        raise ValueError(f"{path} does not hold results of this command") from error
    if complete != text:
        _replace(path, complete)
    return files


def _complete_rows(text: str, top_k: int) -> tuple[str, set[str]]:
    """The rows without those of a last file that has fewer than ``top_k``, and the files of the rest."""
    header, *rows = csv.reader(io.StringIO(text, newline="")) if text else [list(_COLUMNS)]
    if header != list(_COLUMNS):
        raise ValueError("the columns are different")
    if rows and len(rows[-1]) < len(_COLUMNS):  # cut off within a name that has a line break
        rows.pop()
    if rows and int(rows[-1][1]) < top_k:
        rows = [row for row in rows if row[0] != rows[-1][0]]
    kept = io.StringIO(newline="")
    csv.writer(kept, lineterminator="\n").writerows([header, *rows])
    return kept.getvalue() if rows else "", {row[0] for row in rows}


def _replace(path: Path, text: str) -> None:
    """Replaces the content of a file at once, so that an interruption loses nothing."""
    temporary = path.with_name(f"{path.name}.tmp")
    with temporary.open("w", encoding="utf-8", errors="surrogateescape", newline="") as stream:
        stream.write(text)
    temporary.replace(path)
