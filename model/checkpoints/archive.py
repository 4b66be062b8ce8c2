"""Archive: the named tensors of a checkpoint file, whatever container and wrapping they are in."""

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
_PREFIXES = ("module.", "_orig_mod.", "model.")


@dataclass(frozen=True)
class Archive:
    """Tensors by the names they have once wrappers and prefixes are off, and a safetensors header's metadata."""

    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]
    container: Literal["safetensors", "pickle"]
    notes: tuple[str, ...] = ()


def read_archive(path: Path) -> Archive:
    """Reads a safetensors file or what ``torch.save`` wrote, told apart by content; no code in a pickle is ever run.

    Tensors are mapped from the file where its container allows, so that nothing is read before it is used.
    Raises ``CheckpointError``.
    """
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    if len(head) > 8 and head[8:9] == b"{":
        return _read_safetensors(path)
    if head.startswith((b"PK\x03\x04", b"\x80")):
        return _read_pickle(path)
    raise CheckpointError(f"{path} is neither a safetensors file nor one written by torch.save: {_describe(head)}")


def _describe(head: bytes) -> str:
    if not head:
        return "it is empty"
    if head.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer; fetch the file itself with `git lfs pull`"
    if head.lstrip()[:5].lower() in (b"<!doc", b"<html"):
        return "it is a web page, perhaps saved in place of a download"
    return f"it begins with {head[:8]!r}"


def _read_safetensors(path: Path) -> Archive:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except SafetensorError as error:
        raise CheckpointError(f"{path} is a damaged or cut off safetensors file: {error}") from error
    return Archive(_unprefixed(tensors), metadata, "safetensors")


def _read_pickle(path: Path) -> Archive:
    mapped = zipfile.is_zipfile(path) and path.suffix != ".safetensors"  # of that name torch.load believes the suffix
    allowed = torch.serialization.safe_globals([argparse.Namespace])  # training scripts keep their arguments in one
    try:
        with path.open("rb") as file, allowed:
            content = torch.load(path if mapped else file, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        raise CheckpointError(_refusal(path, str(error))) from error
    except Exception as error:  # a damaged file makes torch.load raise errors of any kind
        raise CheckpointError(f"{path} is damaged, cut off or not from torch.save: {_first(error)}") from error
    state_dict, notes = _unwrapped(content, path)
    return Archive(_unprefixed(state_dict), {}, "pickle", notes)


def _refusal(path: Path, message: str) -> str:
    found = re.search(r"GLOBAL ([\w.]+)", message)
    if found is None:
        return f"{path} is a damaged or cut off pickle: {message.splitlines()[0]}"
    name = found.group(1)
    return (
        f"{path} was refused: besides tensors it holds {name}, and loading that could run code from the file. "
        "If you trust its source, load it there and save its state_dict() alone."
    )


def _unwrapped(content: Any, path: Path) -> tuple[dict[str, Tensor], tuple[str, ...]]:  # Any: what the pickle holds
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not a state_dict")
    present = [name for name in _WRAPPERS if isinstance(content.get(name), Mapping)]
    notes: tuple[str, ...] = ()
    if present:
        content = content[present[0]]
        if present[0] in _EMA_WRAPPERS and len(present) > 1:
            notes = (f"of {' and '.join(present)} in the file, {present[0]} (the averaged weights) is served",)
    content = {name: value for name, value in content.items() if name != "n_averaged"}  # AveragedModel's step counter
    strangers = [name for name, value in content.items() if not isinstance(value, Tensor)]
    if strangers or not content:
        what = f"its entry {strangers[0]!r} is no tensor" if strangers else "it has no tensors"
        raise CheckpointError(f"{path} holds no state_dict, nor one under {', '.join(_WRAPPERS)}: {what}")
    return content, notes


def _unprefixed(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Takes off what DataParallel, torch.compile and Lightning put before every name."""
    while tensors:
        prefix = next((prefix for prefix in _PREFIXES if all(name.startswith(prefix) for name in tensors)), None)
        if prefix is None:
            break
        tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors


def _first(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0].split(". ")[0]
