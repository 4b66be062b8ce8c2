"""Messages on stderr, and results as text, JSON Lines or CSV."""

import csv
import io
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from model.head import Prediction

COLUMNS = ("file", "rank", "class_id", "label", "probability")


def print_error(message: str) -> None:
    """Prints an error message."""
    print(f"convnext-serve: {message}", file=sys.stderr)  # noqa: T201 - the command's output


def reason(error: Exception) -> str:
    """What went wrong, without the number and the name of the file that an ``OSError`` adds."""
    return (isinstance(error, OSError) and error.strerror) or str(error)


Format = Callable[[str, str, Sequence[Prediction]], str]
"""Makes text of the name of a file, that of the model, and the predictions."""


def as_text(file: str, _model: str, predictions: Sequence[Prediction]) -> str:
    """The name of the file, and a line per class."""
    return f"{file}\n" + "".join(f"  {item.probability:6.1%}  {item.label}\n" for item in predictions)


def as_json_line(file: str, model: str, predictions: Sequence[Prediction]) -> str:
    """One JSON object."""
    result = {"file": file, "model": model, "predictions": [asdict(item) for item in predictions]}
    return json.dumps(result, allow_nan=False) + "\n"


def as_csv(file: str, _model: str, predictions: Sequence[Prediction]) -> str:
    """A row per class."""
    ranked = enumerate(predictions, start=1)
    return csv_rows((file, rank, item.class_id, item.label, item.probability) for rank, item in ranked)


def csv_rows(rows: Iterable[Sequence[object]]) -> str:
    """Rows of a CSV file."""
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


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
    header, *rows = csv.reader(io.StringIO(text, newline="")) if text else [list(COLUMNS)]
    if header != list(COLUMNS):
        raise ValueError("the columns are different")
    if rows and len(rows[-1]) < len(COLUMNS):  # cut off within a name that has a line break
        rows.pop()
    if rows and int(rows[-1][1]) < top_k:
        rows = [row for row in rows if row[0] != rows[-1][0]]
    return csv_rows([header, *rows]) if rows else "", {row[0] for row in rows}


def _replace(path: Path, text: str) -> None:
    """Replaces the content of a file at once, so that an interruption loses nothing."""
    temporary = path.with_name(f"{path.name}.tmp")
    with temporary.open("w", encoding="utf-8", errors="surrogateescape", newline="") as stream:
        stream.write(text)
    temporary.replace(path)
