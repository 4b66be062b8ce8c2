"""Class labels: the label sets in this package (one text file each), and label files of the user."""

import json
from pathlib import Path
from typing import Any

from model.errors import CheckpointError

_FOLDER = Path(__file__).parent


def label_sets() -> tuple[str, ...]:
    """Returns the names of the label sets in this package."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.txt")))


def label_set(name: str) -> tuple[str, ...]:
    """Returns the labels of a label set in this package, by class index. Raises ``KeyError`` if it is unknown."""
    if name not in label_sets():
        raise KeyError(name)
    return read_labels(_FOLDER / f"{name}.txt")


def read_labels(path: Path) -> tuple[str, ...]:
    """Reads labels, by class index, from a text file with one label per line or from a JSON file (``parse_labels``).

    Raises ``CheckpointError`` if the file cannot be read or its labels are invalid.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"Cannot read the labels file {path}: {error}") from error
    if path.suffix.lower() != ".json" and not text.lstrip().startswith(("[", "{")):
        return _validated(text.rstrip().splitlines(), str(path))
    try:
        return parse_labels(json.loads(text), str(path))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"The labels file {path} is not valid JSON: {error}") from error


def parse_labels(value: Any, source: str) -> tuple[str, ...]:  # Any: parsed JSON
    """Returns the labels, by class index, of a JSON list or of an object index → label or label → index.

    Raises ``CheckpointError``, with ``source`` in the message, if a label is missing, empty or not Unicode text.
    """
    if isinstance(value, list):
        return _validated(value, source)
    if not isinstance(value, dict):
        raise CheckpointError(f"{source}: labels must be a list or an object, found {type(value).__name__}")
    if all(isinstance(index, int) for index in value.values()):
        by_index = {index: label for label, index in value.items()}
    else:
        by_index = {int(index) if index.isdecimal() else index: label for index, label in value.items()}
    missing = [index for index in range(len(value)) if index not in by_index]
    if missing:
        raise CheckpointError(f"{source}: no label for class {missing[0]}, found {len(value)} labels")
    return _validated([by_index[index] for index in range(len(value))], source)


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
