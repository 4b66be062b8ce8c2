"""The project's own file: safetensors with timm's tensor names, and the card as JSON in the header."""

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from model.checkpoints.model_card import Card
from model.convnext import ConvNeXtConfig
from model.errors import CheckpointError
from model.preprocess import Transform

FORMAT_KEY = "convnext_serve"
FORMAT_VERSION = "1"
_PARTS = ("name", "licence", "config", "transform", "labels")


def is_native(metadata: Mapping[str, str]) -> bool:
    """Whether a safetensors header is that of the project's own format, of whichever version."""
    return FORMAT_KEY in metadata


def read_card(metadata: Mapping[str, str], source: str) -> Card:
    """The card in a header. Raises ``CheckpointError`` on another version, a missing or a malformed part."""
    if metadata[FORMAT_KEY] != FORMAT_VERSION:
        found = metadata[FORMAT_KEY]
        raise CheckpointError(f"{source} has format version {found!r}; this release reads {FORMAT_VERSION!r}")
    missing = [part for part in _PARTS if part not in metadata]
    if missing:
        raise CheckpointError(f"{source} lacks {', '.join(missing)} in its header")
    try:
        return Card(
            name=metadata["name"],
            licence=metadata["licence"],
            config=ConvNeXtConfig(**_tuples(json.loads(metadata["config"]))),
            transform=Transform(**_tuples(json.loads(metadata["transform"]))),
            labels=tuple(json.loads(metadata["labels"])),
            top1=float(metadata["top1"]) if "top1" in metadata else None,
        )
    except (ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{source} has a malformed header: {error}") from error


def save_checkpoint(
    path: str | Path,
    state_dict: Mapping[str, Tensor],
    config: ConvNeXtConfig,
    transform: Transform,
    labels: tuple[str, ...],
    *,
    name: str,
    licence: str,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Writes ``state_dict`` of ``ConvNeXt(config)`` atomically, in the dtypes that it has.

    ``metadata`` goes into the header as it is; ``top1`` in it (percent) becomes ``LoadedModel.top1``.
    Raises ``CheckpointError`` where the labels do not match the head or ``metadata`` redefines a key of the format.
    """
    if len(labels) != config.num_classes:
        raise CheckpointError(f"{len(labels)} labels do not name the {config.num_classes} classes of the head")
    header = {
        "format": "pt",
        FORMAT_KEY: FORMAT_VERSION,
        "name": name,
        "licence": licence,
        "config": json.dumps(asdict(config)),
        "transform": json.dumps(asdict(transform)),
        "labels": json.dumps(list(labels), ensure_ascii=False),
    }
    if taken := header.keys() & (metadata or {}).keys():
        raise CheckpointError(f"metadata may not redefine {', '.join(sorted(taken))}")
    tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in state_dict.items()}
    _write_atomically(Path(path), tensors, header | dict(metadata or {}))


def _write_atomically(path: Path, tensors: dict[str, Tensor], header: dict[str, str]) -> None:
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(descriptor)
    try:
        save_file(tensors, temporary, header)
        os.chmod(temporary, 0o644)  # mkstemp gives 0o600
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _tuples(values: Mapping[str, Any]) -> dict[str, Any]:  # Any: parsed JSON
    return {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
