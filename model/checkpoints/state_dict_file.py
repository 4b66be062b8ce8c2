"""StateDictFile: the state dict in a checkpoint file, without wrappers and key prefixes."""

import argparse
import pickle
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from model.errors import CheckpointError

_EMA_WRAPPERS = ("model_ema", "state_dict_ema")
_WRAPPERS = (*_EMA_WRAPPERS, "model", "state_dict")
_PREFIXES = ("module.", "_orig_mod.", "model.", "timm_model.")


@dataclass(frozen=True)
class StateDictFile:
    """Tensors by key, without the prefixes of training wrappers, and the metadata of a safetensors header."""

    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]
    container: Literal["safetensors", "pickle"]
    notes: tuple[str, ...] = ()


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
    raise CheckpointError(f"{path} is not a safetensors or torch.save file: {_content_type(start)}")


def _content_type(start: bytes) -> str:
    if not start:
        return "it is empty"
    if start.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer; download the file with `git lfs pull`"
    if start.lstrip()[:5].lower() in (b"<!doc", b"<html"):
        return "it is an HTML page"
    return f"it starts with {start[:8]!r}"


def _read_safetensors(path: Path) -> StateDictFile:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
    except SafetensorError as error:
        raise CheckpointError(f"{path} is a corrupt or truncated safetensors file: {error}") from error
    return StateDictFile(_without_prefixes(tensors), metadata, "safetensors")


def _read_pickle(path: Path) -> StateDictFile:
    mapped = zipfile.is_zipfile(path) and path.suffix != ".safetensors"  # torch.load trusts this suffix
    allowed = torch.serialization.safe_globals([argparse.Namespace])  # training scripts save their arguments as one
    try:
        with path.open("rb") as file, allowed:
            content = torch.load(path if mapped else file, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        raise CheckpointError(_unpickling_problem(path, error)) from error
    except Exception as error:  # torch.load raises many types on corrupt files
        raise CheckpointError(
            f"{path} is corrupt, truncated or not a torch.save file: {_first_sentence(error)}"
        ) from error
    state_dict, notes = _unwrap(content, path)
    return StateDictFile(_without_prefixes(state_dict), {}, "pickle", notes)


def _unpickling_problem(path: Path, error: pickle.UnpicklingError) -> str:
    found = re.search(r"GLOBAL ([\w.]+)", str(error))
    if found is None:
        return f"{path} is a corrupt or truncated pickle: {_first_sentence(error)}"
    return (
        f"{path} contains {found.group(1)}, and unpickling that could execute code from the file. "
        "If you trust its source, load it there and save only its state_dict()."
    )


def _unwrap(content: Any, path: Path) -> tuple[dict[str, Tensor], tuple[str, ...]]:  # Any: unpickled content
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path} contains a {type(content).__name__}, not a state_dict")
    present = [name for name in _WRAPPERS if isinstance(content.get(name), Mapping)]
    notes: tuple[str, ...] = ()
    if present:
        content = content[present[0]]
        if present[0] in _EMA_WRAPPERS and len(present) > 1:
            notes = (f"using {present[0]} (averaged weights) of {' and '.join(present)} in the file",)
    content = {key: value for key, value in content.items() if key != "n_averaged"}  # AveragedModel's step counter
    others = [key for key, value in content.items() if not isinstance(key, str) or not isinstance(value, Tensor)]
    if others or not content:
        reason = f"the entry {others[0]!r} is not a named tensor" if others else "there are no tensors"
        raise CheckpointError(f"{path} has no state_dict at the top level or under {', '.join(_WRAPPERS)}: {reason}")
    return content, notes


def _without_prefixes(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Removes the key prefixes of DataParallel, torch.compile and Lightning."""
    while tensors:
        prefix = next((prefix for prefix in _PREFIXES if all(key.startswith(prefix) for key in tensors)), None)
        if prefix is None:
            break
        tensors = {key.removeprefix(prefix): tensor for key, tensor in tensors.items()}
    return tensors


def _first_sentence(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0].split(". ")[0]
