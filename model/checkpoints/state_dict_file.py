"""StateDictFile: the tensors in a checkpoint file, wherever they are nested."""

import pickle
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from model.checkpoints.file_kinds import name_archive, name_kind
from model.checkpoints.unpickle import ForbiddenGlobal, Placeholder, load_data
from model.errors import CheckpointError

_MAX_DEPTH = 8


@dataclass(frozen=True)
class StateDictFile:
    """All tensors of a file, by the keys that lead to them joined with dots, and a safetensors header's metadata.

    ``record`` is everything that a pickle contains, or that metadata.
    """

    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]
    container: Literal["safetensors", "pickle"]
    record: Mapping[str, Any] = field(default_factory=dict)  # Any: unpickled content


def read_state_dict(path: Path) -> StateDictFile:
    """Reads a safetensors or ``torch.save`` file, whatever its suffix, without running code from a pickle.

    Tensors are memory-mapped if the container allows it. Raises ``CheckpointError``.
    """
    try:
        with path.open("rb") as file:
            start = file.read(512)
    except OSError as error:
        raise CheckpointError(f"Cannot read {path}: {error.strerror}") from error
    if start[8:9] == b"{":
        return _read_safetensors(path)
    if start.startswith((b"PK\x03\x04", b"\x80")):
        return _read_pickle(path)
    raise CheckpointError(f"{path} is not a safetensors or torch.save file: {name_kind(start, path)}")


def _read_safetensors(path: Path) -> StateDictFile:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
    except SafetensorError as error:
        raise CheckpointError(f"{path} is a corrupt or truncated safetensors file: {error}") from error
    return StateDictFile(tensors, metadata, "safetensors", metadata)


def _read_pickle(path: Path) -> StateDictFile:
    if kind := name_archive(path):
        raise CheckpointError(f"{path} is {kind}")
    mapped = zipfile.is_zipfile(path) and path.suffix != ".safetensors"  # torch.load trusts this suffix
    try:
        content = _unpickle(path, mapped=mapped)
    except pickle.UnpicklingError as error:
        raise CheckpointError(_unpickling_problem(path, error)) from error
    except Exception as error:  # torch.load raises many types on corrupt files
        raise CheckpointError(
            f"{path} is corrupt, truncated or not a torch.save file: {_first_sentence(error)}"
        ) from error
    tensors = dict(_flatten(content))
    if not tensors:
        for value in (content, *content.values()) if isinstance(content, Mapping) else (content,):
            if isinstance(value, Placeholder):
                raise CheckpointError(_unpickling_problem(path, ForbiddenGlobal(value.origin)))
        found = f"{type(content).__name__} of {', '.join(map(repr, content))}" if isinstance(content, Mapping) else "it"
        raise CheckpointError(f"{path} has no state_dict: there are no named tensors in {found[:200]}")
    return StateDictFile(tensors, {}, "pickle", content)


def _unpickle(path: Path, *, mapped: bool) -> Any:  # Any: unpickled content
    """Tries torch's own safe loading, and where a file has more than tensors, that of ``unpickle``."""
    try:
        with path.open("rb") as file:
            return torch.load(path if mapped else file, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        if "GLOBAL" not in str(error) and "class" not in str(error) and "Unsupported" not in str(error):
            raise
        return load_data(path, mapped=mapped)


def _flatten(content: object, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Tensor]]:
    """The tensors in nested mappings, by their keys joined with dots."""
    if isinstance(content, np.ndarray) and path and content.dtype.kind == "f":
        content = torch.from_numpy(content)
    if isinstance(content, Tensor) and path:
        yield ".".join(path), content
    elif isinstance(content, Mapping) and len(path) < _MAX_DEPTH:
        for key, value in content.items():
            if isinstance(key, str):
                yield from _flatten(value, (*path, key))


def _unpickling_problem(path: Path, error: pickle.UnpicklingError) -> str:
    if not isinstance(error, ForbiddenGlobal):
        return f"{path} is a corrupt or truncated pickle: {_first_sentence(error)}"
    return (
        f"{path} contains {error.name}, and unpickling that could execute code from the file. "
        "If you trust its source, load it there and save only its state_dict()."
    )


def _first_sentence(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0].split(". ")[0]
