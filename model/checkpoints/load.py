"""Loading and inspecting checkpoints: a registered name or a path to a network with its transform and labels."""

import logging
import os
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch

from model.checkpoints import hf_folder, hub, native
from model.checkpoints.defaults import choose_activation, choose_labels, choose_transform, size_of
from model.checkpoints.download import sha256_of
from model.checkpoints.families import canonical_state_dict, infer_config
from model.checkpoints.model_card import ModelCard
from model.checkpoints.network_search import Averaged, FoundNetwork, find_network
from model.checkpoints.registry import (
    WeightsEntry,
    fetch_weights,
    is_non_commercial,
    registered_weights,
    suggest_name,
    verify_weights,
)
from model.checkpoints.state_dict_file import StateDictFile, read_state_dict
from model.checkpoints.training_record import check_options, read_class_names, read_options
from model.convnext import ConvNeXt, ConvNeXtConfig
from model.errors import CheckpointError, CheckpointMismatch
from model.head import Activation
from model.images.transform import Transform

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CheckpointSummary:
    """The content of a checkpoint, with defaults for missing metadata.

    ``version`` is 1 or 2 for ConvNeXt V1 or V2, ``size`` one of ``SIZES`` or None. ``parameters`` counts numbers, and
    ``dtypes`` starts with the most frequent one. ``top1`` is the published accuracy in percent. ``notes`` list the
    assumptions made for missing metadata.
    """

    name: str
    path: Path
    family: str
    container: str
    version: int
    size: str | None
    config: ConvNeXtConfig
    parameters: int
    dtypes: tuple[str, ...]
    transform: Transform
    labels: tuple[str, ...]
    activation: Activation
    licence: str
    top1: float | None
    notes: tuple[str, ...]


@dataclass(frozen=True)
class LoadedModel(CheckpointSummary):
    """A network ready for inference: in eval mode, float32, on the CPU. ``sha256`` is the digest of ``path``."""

    network: ConvNeXt
    sha256: str


def load_model(
    name_or_path: str | Path,
    *,
    labels: str | Path | None = None,
    activation: Literal["auto", "softmax", "sigmoid"] = "auto",
    ema: Averaged = "auto",
    cache_dir: Path | None = None,
) -> LoadedModel:
    """Loads a published model, fetching it on first use, a checkpoint file or folder, or OWNER/NAME of the Hub.

    ``labels`` is a file (text or JSON) or the name of a label set, and overrides the labels of the checkpoint.
    ``activation`` overrides its output function. ``ema`` selects averaged weights or not in a training checkpoint with
    both; see ``find_network`` for auto.
    Raises ``CheckpointError``, ``CheckpointMismatch`` or ``DownloadError``.
    """
    if entry := _registered(name_or_path):
        if os.access(entry.name, os.F_OK):
            logger.warning("using the published model %s; for the file or folder, use ./%s", entry.name, entry.name)
        path, sha256 = fetch_weights(entry, cache_dir), verify_weights(entry, cache_dir)
        file, card = read_state_dict(path), entry.card()
    else:
        path, folder, name = _locate(name_or_path, cache_dir)
        file, sha256 = read_state_dict(path), sha256_of(path)
        card = _card(file, path, folder, name)
    found = find_network(file.tensors, str(path), ema)
    summary = _summarize(file, found, card, path, labels, activation)
    for note in summary.notes:
        logger.warning("%s: %s", summary.name, note)
    if is_non_commercial(summary.licence):
        logger.warning("%s: its licence, %s, forbids commercial use", summary.name, summary.licence)
    return LoadedModel(**vars(summary), network=_build(found, summary.config, path), sha256=sha256)


def inspect_checkpoint(name_or_path: str | Path, *, cache_dir: Path | None = None) -> CheckpointSummary:
    """Returns the content of a checkpoint file or folder, or of registered weights that have been fetched.

    Raises ``CheckpointError``, ``CheckpointMismatch`` or ``DownloadError``.
    """
    if entry := _registered(name_or_path):
        verify_weights(entry, cache_dir)
        path = entry.path(cache_dir)
        file, card = read_state_dict(path), entry.card()
    else:
        path, folder, name = _locate(name_or_path, cache_dir)
        file = read_state_dict(path)
        card = _card(file, path, folder, name)
    return _summarize(file, find_network(file.tensors, str(path)), card, path)


def _registered(name_or_path: str | Path) -> WeightsEntry | None:
    return registered_weights().get(name_or_path) if isinstance(name_or_path, str) else None


def _locate(name_or_path: str | Path, cache_dir: Path | None = None) -> tuple[Path, Path | None, str | None]:
    """The weights file, the folder whose JSON files describe it, and the name of a repository, if there are any."""
    name = None
    try:
        path = Path(name_or_path).expanduser()
        exists = path.exists()
    except (RuntimeError, OSError) as error:  # an unknown user after ~, no permission, a name that is too long
        raise CheckpointError(f"Cannot find {name_or_path}: {error}") from error
    if not exists and isinstance(name_or_path, str) and hub.is_repository(name_or_path):
        path, name = hub.fetch_repository(name_or_path, cache_dir), name_or_path
    elif not exists:
        raise CheckpointError(
            f"{name_or_path} is not an existing path or a published model; {suggest_name(str(name_or_path))}"
        )
    try:
        return *hf_folder.locate(path), name
    except OSError as error:
        raise CheckpointError(f"Cannot read {path}: {error.strerror}") from error


def _card(file: StateDictFile, path: Path, folder: Path | None, name: str | None) -> ModelCard:
    """What is known besides the tensors; a file of this project has it in its header, whatever is beside it."""
    if folder is None or native.is_native(file.metadata):
        return ModelCard(name or path.stem)
    card = hf_folder.read_card(folder)
    return replace(card, name=name) if name else card


def _summarize(
    file: StateDictFile,
    found: FoundNetwork,
    card: ModelCard,
    path: Path,
    override: str | Path | None = None,
    activation: Literal["auto", "softmax", "sigmoid"] = "auto",
) -> CheckpointSummary:
    family = found.family
    is_native = native.is_native(file.metadata)
    if is_native:
        header = native.read_card(file.metadata, str(path))
        card = replace(header, top1=card.top1 or header.top1)
    is_bare = replace(card, notes=()) == ModelCard(card.name)
    if not is_native:
        card = _completed(card, file, path)
    config = _config(found, card, path)
    notes = [*found.notes, *card.notes]
    if is_bare:
        notes.append(
            "no configuration; assuming GELU, average pooling and that the outputs are classes, not embeddings"
        )
    transform = choose_transform(card.transform, found, config, str(path), notes.append)
    if card.transform is None:
        check_options(file.record, transform, str(path))
    labels = card.labels
    if labels is None and override is None:
        labels, unused = read_class_names(file.record, config.num_classes, str(path))
        notes.extend(unused)
    labels = choose_labels(labels, config.num_classes, override, path, notes.append)
    tensors = found.tensors.values()
    dtypes = Counter(str(tensor.dtype).removeprefix("torch.") for tensor in tensors)
    return CheckpointSummary(
        name=card.name,
        path=path,
        family="convnext-serve" if is_native else family.name,
        container=file.container,
        version=2 if config.grn else 1,
        size=size_of(config),
        config=config,
        parameters=sum(tensor.numel() for tensor in tensors),
        dtypes=tuple(dtype for dtype, _ in dtypes.most_common()),
        transform=transform,
        labels=labels,
        activation=choose_activation(card.activation, activation, config.num_classes, str(path)),
        licence=card.licence or "unknown",
        top1=card.top1,
        notes=tuple(notes),
    )


def _completed(card: ModelCard, file: StateDictFile, path: Path) -> ModelCard:
    """The card with what it does not say, and the options of a training script in the file do."""
    options = read_options(file.record, card.name, str(path))
    missing = {key: value for key, value in vars(options).items() if getattr(card, key) is None}
    return replace(card, **missing, notes=card.notes + (options.notes if "transform" in missing else ()))


def _config(found: FoundNetwork, card: ModelCard, path: Path) -> ConvNeXtConfig:
    try:
        config = card.config or infer_config(found.tensors, found.family, str(path), card.patch_size)
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error
    if config.in_channels != 3:
        raise CheckpointError(f"{path} expects images with {config.in_channels} channels; only RGB is supported")
    if card.num_classes not in (None, config.num_classes):
        raise CheckpointMismatch(f"{path}: config.json has {card.num_classes} classes, the head {config.num_classes}")
    return replace(
        config,
        norm_eps=card.norm_eps or config.norm_eps,
        head_norm_eps=card.head_norm_eps or config.head_norm_eps,
    )


def _build(found: FoundNetwork, config: ConvNeXtConfig, path: Path) -> ConvNeXt:
    with torch.device("meta"):
        network = ConvNeXt(config)
    network.load_state_dict(canonical_state_dict(found.tensors, found.family, config, str(path)), assign=True)
    return network.eval().requires_grad_(False)
