"""Class names: the sets that ship with the package, one file each, and the files that users bring."""

import json
from pathlib import Path
from typing import Any

from model.errors import CheckpointError

_FOLDER = Path(__file__).parent


def label_sets() -> tuple[str, ...]:
    """The names of the sets that ship with the package."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.txt")))


def label_set(name: str) -> tuple[str, ...]:
    """The class names of a set that ships with the package, by class index. Raises ``KeyError`` on an unknown name."""
    if name not in label_sets():
        raise KeyError(name)
    return read_labels(_FOLDER / f"{name}.txt")


def read_labels(path: Path) -> tuple[str, ...]:
    """Class names by class index from a text file, one a line, or from JSON.

    JSON may be a list of names, or an object in either direction: index → name or name → index.
    Raises ``CheckpointError`` where the file cannot be read, an index is missing, or a name is empty.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"The labels file {path} cannot be read: {error}") from error
    if path.suffix.lower() != ".json" and not text.lstrip().startswith(("[", "{")):
        return _checked(text.rstrip().splitlines(), str(path))
    try:
        return parse_labels(json.loads(text), str(path))
    except json.JSONDecodeError as error:
        raise CheckpointError(f"The labels file {path} is not valid JSON: {error}") from error


def parse_labels(value: Any, source: str) -> tuple[str, ...]:  # Any: parsed JSON
    """Class names by class index from a parsed JSON value; ``source`` names it in errors (``CheckpointError``)."""
    if isinstance(value, list):
        return _checked(value, source)
    if not isinstance(value, dict):
        raise CheckpointError(f"{source}: labels must be a list or an object, found {type(value).__name__}")
    if all(isinstance(index, int) for index in value.values()):
        by_index = {index: name for name, index in value.items()}
    else:
        by_index = {int(index) if index.isdecimal() else index: name for index, name in value.items()}
    missing = [index for index in range(len(value)) if index not in by_index]
    if missing:
        raise CheckpointError(f"{source}: {len(value)} labels are given, but none for class {missing[0]}")
    return _checked([by_index[index] for index in range(len(value))], source)


def _checked(names: list[Any], source: str) -> tuple[str, ...]:
    if not names:
        raise CheckpointError(f"{source}: there are no labels")
    for index, name in enumerate(names):
        if not isinstance(name, str) or not name.strip():
            raise CheckpointError(f"{source}: the label of class {index} is {name!r}, not a name")
    return tuple(name.strip() for name in names)
