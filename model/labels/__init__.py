"""Class labels: the label sets in this package (one text file each), and label files of the user."""

import codecs
import csv
import json
import re
from pathlib import Path
from typing import Any

from model.errors import CheckpointError

_FOLDER = Path(__file__).parent
_BY_INDEX = ("id2label", "idx_to_class", "idx2label", "idx2class", "id_to_label", "index_to_label")
_BY_NAME = ("class_to_idx", "label2id", "label2idx", "class2idx", "label_to_id", "label_to_index")
LABEL_KEYS = (*_BY_INDEX, *_BY_NAME, "label_names", "labels", "classes", "class_names", "categories", "names")
"""The keys under which libraries keep the labels, the most certain ones first."""
_NUMBERED = (re.compile(r"^\W*(\d+)[\s,:;=.)\]>|-]+[^\W\d]"), re.compile(r"[^\W\d][\s,:;=([>|]+(\d+)\W*$"))
_INDEXED = re.compile(r"\s*(\d+)\s*[\t,:;]\s*([^\W\d].*)")
_UNSUPPORTED = (".yaml", ".yml", ".toml", ".xml", ".pbtxt", ".npy", ".pkl")
_HEADERS = {"name", "names", "label", "labels", "class", "classes", "class_name"}


def label_sets() -> tuple[str, ...]:
    """Returns the names of the label sets in this package."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.txt")))


def label_set(name: str) -> tuple[str, ...]:
    """Returns the labels of a label set in this package, by class index. Raises ``KeyError`` if it is unknown."""
    if name not in label_sets():
        raise KeyError(name)
    return read_labels(_FOLDER / f"{name}.txt")


def read_labels(path: Path) -> tuple[str, ...]:
    """Reads labels, by class index, from a text file with one label per line, CSV, or JSON (``parse_labels``).

    Raises ``CheckpointError`` if the file cannot be read or its labels are invalid.
    """
    try:
        text = _decode(path.read_bytes())
    except OSError as error:
        raise CheckpointError(f"Cannot read the labels file {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise CheckpointError(f"Cannot read the labels file {path}: {error}") from error
    if path.suffix.lower() in (".csv", ".tsv"):
        return _parse_rows(text, str(path))
    if path.suffix.lower() in _UNSUPPORTED:
        raise CheckpointError(f"{path}: labels must be text, CSV or JSON")
    if path.suffix.lower() != ".json" and not text.lstrip().startswith(("[", "{")):
        return _parse_lines(text.rstrip().splitlines(), str(path))
    try:
        return parse_labels(json.loads(text), str(path))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"The labels file {path} is not valid JSON: {error}") from error


def _decode(data: bytes) -> str:
    """UTF-8, or UTF-16 with a byte order mark."""
    is_utf16 = len(data) > len(codecs.BOM_UTF16) and data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return data.decode("utf-16" if is_utf16 else "utf-8-sig")


def _parse_lines(lines: list[str], source: str) -> tuple[str, ...]:
    """The labels of a text file, of which each line may begin with its index and a tab or mark.

    Raises ``CheckpointError`` if the lines are numbered otherwise, and not in this order.
    """
    rows = {found[1]: found[2] for line in lines if (found := _INDEXED.fullmatch(line))}
    if len(rows) == len(lines) and {int(index) for index in rows} == set(range(len(lines))):
        return parse_id_to_label(rows, source)
    for pattern in _NUMBERED:
        numbers = [int(found[1]) for line in lines if (found := pattern.search(line))]
        ordered = sorted(numbers)
        if numbers != ordered and ordered in (list(range(len(lines))), list(range(1, len(lines) + 1))):
            raise CheckpointError(f"{source}: the lines are numbered, but not in order; use CSV with index and name")
    return _validated(lines, source)


def _parse_rows(text: str, source: str) -> tuple[str, ...]:
    """The labels of a CSV file: a name per row, or an index and a name in any order, with or without a header."""
    delimiter = next((mark for mark in "\t;" if all(mark in line for line in text.split("\n") if line.strip())), ",")
    rows = [row for row in csv.reader(text.splitlines(), delimiter=delimiter) if row]
    if not rows or {len(row) for row in rows} not in ({1}, {2}):
        raise CheckpointError(f"{source}: expected one column of names, or an index and a name in each row")
    if len(rows[0]) == 1:
        has_header = rows[0][0].strip().lower() in _HEADERS
        return _validated([row[0] for row in rows[has_header:]], source)
    body = rows if any(cell.strip().isdecimal() for cell in rows[0]) else rows[1:]
    columns = [{row[side].strip() for row in body} for side in (0, 1)]
    expected = {str(index) for index in range(len(body))}
    sides = [side for side in (0, 1) if columns[side] == expected]
    if len(sides) != 1:
        raise CheckpointError(f"{source}: exactly one column must have each index from 0 to {len(body) - 1} once")
    return parse_id_to_label({row[sides[0]].strip(): row[1 - sides[0]] for row in body}, source)


def parse_labels(value: Any, source: str) -> tuple[str, ...]:  # Any: parsed JSON
    """Returns the labels, by class index, of a JSON list or of an object index → label or label → index.

    Raises ``CheckpointError``, with ``source`` in the message, if a label is missing, empty or not Unicode text.
    """
    if isinstance(value, list):
        return _validated(value, source)
    if not isinstance(value, dict):
        raise CheckpointError(f"{source}: labels must be a list or an object, found {type(value).__name__}")
    for key in LABEL_KEYS:
        if isinstance(value.get(key), list | dict):
            return parse_named_labels(key, value[key], source)
    if value and all(isinstance(item, list) and len(item) == 2 for item in value.values()):
        value = {index: name for index, (_, name) in value.items()}  # Keras' imagenet_class_index.json
    if not all(type(index) is int for index in value.values()):
        return parse_id_to_label(value, source)
    indices = set(range(len(value)))
    is_swapped = {int(key) for key in value if key.isdecimal()} == indices  # names that are numbers
    is_swapped = is_swapped and len(set(value.values())) == len(value)
    if is_swapped and any(int(key) != index for key, index in value.items()) and set(value.values()) != indices:
        return parse_id_to_label(value, source)
    if is_swapped and any(int(key) != index for key, index in value.items()):
        raise CheckpointError(f"{source}: it is ambiguous which numbers are indices and which are names; use a list")
    return _parse_label_to_id(value, source)


def parse_named_labels(key: str, value: Any, source: str) -> tuple[str, ...]:  # Any: parsed JSON
    """Returns the labels under ``key``, one of ``LABEL_KEYS``, some of which say whether an index is key or value.

    Raises ``CheckpointError``.
    """
    source = f"{source}: {key}"
    if isinstance(value, dict) and key in _BY_INDEX:
        return parse_id_to_label(value, source)
    if isinstance(value, dict) and key in _BY_NAME:
        return _parse_label_to_id(value, source)
    return parse_labels(value, source)


def _parse_label_to_id(value: dict[str, Any], source: str) -> tuple[str, ...]:  # Any: parsed JSON
    by_index = {str(index): name for name, index in value.items()}
    if len(by_index) < len(value):
        twice = next(index for index in value.values() if list(value.values()).count(index) > 1)
        missing = next(index for index in range(len(value)) if str(index) not in by_index)
        raise CheckpointError(f"{source}: no label for class {missing}, and two for class {twice}")
    return parse_id_to_label(by_index, source)


def parse_id_to_label(value: Any, source: str) -> tuple[str, ...]:  # Any: parsed JSON
    """Returns the labels of an object index → label, whose labels may be numbers. Raises ``CheckpointError``."""
    if not isinstance(value, dict):
        raise CheckpointError(f"{source}: labels must be an object index → label, found {type(value).__name__}")
    by_index = {int(index) if index.isdecimal() else index: _text(label) for index, label in value.items()}
    if len(by_index) < len(value):
        raise CheckpointError(f"{source}: two labels have the same index")
    missing = [index for index in range(len(value)) if index not in by_index]
    if missing:
        raise CheckpointError(f"{source}: no label for class {missing[0]}, found {len(value)} labels")
    return _validated([by_index[index] for index in range(len(value))], source)


def _text(label: Any) -> Any:  # Any: parsed JSON
    """A number as text, as transformers takes any label."""
    return str(label) if type(label) in (int, float) else label


def is_unicode(value: object) -> bool:
    """Whether ``value`` is text that UTF-8 can encode: JSON and file names may contain lone surrogates."""
    return isinstance(value, str) and not any("\ud800" <= character <= "\udfff" for character in value)


def _validated(labels: list[Any], source: str) -> tuple[str, ...]:  # Any: parsed JSON
    if not labels:
        raise CheckpointError(f"{source}: there are no labels")
    for index, label in enumerate(labels):
        if not is_unicode(label) or not label.strip():
            raise CheckpointError(f"{source}: the label of class {index} must be non-empty text, found {label!r}")
    return tuple(label.strip() for label in labels)
