"""The native format: a safetensors file with canonical names and the model card as JSON in its header."""

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast, get_args

from safetensors.torch import save_file
from torch import Tensor

from model.checkpoints.model_card import ModelCard
from model.convnext import ConvNeXtConfig
from model.errors import CheckpointError
from model.head import Activation
from model.images.transform import Transform
from model.labels import parse_labels

FORMAT_KEY = "convnext_serve"
FORMAT_VERSION = "1"
_REQUIRED = ("name", "licence", "config", "transform", "labels")


def is_native(metadata: Mapping[str, str]) -> bool:
    """Whether a safetensors header is in the native format, of any version."""
    return FORMAT_KEY in metadata


def read_card(metadata: Mapping[str, str], source: str) -> ModelCard:
    """Reads the model card in a header. Raises ``CheckpointError`` if a key is missing or malformed."""
    if metadata[FORMAT_KEY] != FORMAT_VERSION:
        version = metadata[FORMAT_KEY]
        raise CheckpointError(f"{source}: format version {version!r} is not supported, only {FORMAT_VERSION!r}")
    missing = [key for key in _REQUIRED if key not in metadata]
    if missing:
        raise CheckpointError(f"{source}: missing {', '.join(missing)} in the header")
    try:
        return ModelCard(
            name=metadata["name"],
            licence=metadata["licence"],
            config=ConvNeXtConfig(**_tuples(json.loads(metadata["config"]))),
            transform=Transform(**_tuples(json.loads(metadata["transform"]))),
            labels=parse_labels(json.loads(metadata["labels"]), source),
            activation=_activation(metadata.get("activation")),
            top1=float(metadata["top1"]) if "top1" in metadata else None,
        )
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{source}: malformed header: {error}") from error


def save_checkpoint(
    path: str | Path,
    state_dict: Mapping[str, Tensor],
    config: ConvNeXtConfig,
    transform: Transform,
    labels: tuple[str, ...],
    *,
    name: str,
    licence: str,
    activation: Activation | None = None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Atomically writes the ``state_dict`` of ``ConvNeXt(config)`` with its dtypes.

    ``activation`` is the output function (None: inferred from the number of classes). ``metadata`` is added to the
    header; its ``top1`` (percent) becomes ``LoadedModel.top1``. Raises ``CheckpointError`` if the labels are invalid or
    not ``num_classes``, or if ``metadata`` has a reserved key.
    """
    if len(labels) != config.num_classes:
        raise CheckpointError(f"found {len(labels)} labels, expected {config.num_classes}")
    parse_labels(list(labels), "labels")
    header = {
        "format": "pt",
        FORMAT_KEY: FORMAT_VERSION,
        "name": name,
        "licence": licence,
        "config": json.dumps(asdict(config)),
        "transform": json.dumps(asdict(transform)),
        "labels": json.dumps(list(labels), ensure_ascii=False),
    }
    header |= {"activation": activation} if activation else {}
    if reserved := header.keys() & (metadata or {}).keys():
        raise CheckpointError(f"reserved metadata keys: {', '.join(sorted(reserved))}")
    tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in state_dict.items()}
    _write_atomically(Path(path), tensors, header | dict(metadata or {}))


def _write_atomically(path: Path, tensors: dict[str, Tensor], header: dict[str, str]) -> None:
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(descriptor)
    try:
        save_file(tensors, temporary, header)
        os.chmod(temporary, 0o644)  # mkstemp creates the file with 0o600
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _activation(name: str | None) -> Activation | None:
    if name not in (None, *get_args(Activation)):
        raise ValueError(f"the activation {name!r} is not one of {', '.join(get_args(Activation))}")
    return cast(Activation | None, name)


def _tuples(values: Mapping[str, Any]) -> dict[str, Any]:  # Any: parsed JSON
    return {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
