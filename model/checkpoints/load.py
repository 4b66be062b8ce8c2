"""load_model: a registered name or a path becomes a network with its transform and labels, or a precise error."""

import difflib
import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from model.checkpoints.archive import Archive, read_archive
from model.checkpoints.download import sha256_of
from model.checkpoints.hf_folder import locate
from model.checkpoints.hf_folder import read_card as read_folder_card
from model.checkpoints.key_maps import Family, infer_config, own_tensors, recognise
from model.checkpoints.model_card import Card
from model.checkpoints.native import is_native, read_card, save_checkpoint
from model.checkpoints.registry import REGISTRY, fetch_weights, is_non_commercial, verify_weights
from model.convnext import SIZES, ConvNeXt, ConvNeXtConfig, config_for
from model.errors import CheckpointError, CheckpointMismatch
from model.labels import label_set, label_sets, read_labels
from model.preprocess import Transform

__all__ = ["Description", "LoadedModel", "describe", "load_model", "save_checkpoint"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadedModel:
    """A network ready to serve, and what its file says of it.

    ``network`` is in eval mode, float32, on the CPU; ``sha256`` is that of the file at ``path``; ``top1`` is the
    published accuracy in percent; ``notes`` say what was assumed where the file left something open.
    """

    name: str
    network: ConvNeXt
    transform: Transform
    labels: tuple[str, ...]
    config: ConvNeXtConfig
    family: str
    licence: str
    sha256: str
    path: Path
    top1: float | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Description:
    """What a checkpoint file holds; ``size`` is None where it is none of the published ones."""

    path: Path
    family: str
    container: str
    version: int
    size: str | None
    config: ConvNeXtConfig
    parameters: int
    dtypes: tuple[str, ...]


def load_model(
    name_or_path: str | Path, *, labels: str | Path | None = None, cache_dir: Path | None = None
) -> LoadedModel:
    """Loads a registered model, fetching it on first use, or a checkpoint file or folder.

    ``labels`` is a file of class names (text or JSON) or the name of a shipped set, and overrides the checkpoint's.
    Raises ``CheckpointError``, ``CheckpointMismatch`` or ``DownloadError``.
    """
    if isinstance(name_or_path, str) and name_or_path in REGISTRY:
        entry = REGISTRY[name_or_path]
        path = fetch_weights(entry, cache_dir)
        sha256 = verify_weights(entry, cache_dir)
        card = entry.card()
    else:
        path, card = _find(name_or_path)
        sha256 = sha256_of(path)
    model = _assemble(path, sha256, card, labels)
    for note in model.notes:
        logger.info("%s: %s", model.name, note)
    if is_non_commercial(model.licence):
        logger.warning("%s: its licence, %s, forbids commercial use", model.name, model.licence)
    return model


def describe(path: str | Path) -> Description:
    """What the checkpoint file or folder at ``path`` holds, its network not built. Raises ``CheckpointError``."""
    path, card = _find(path)
    archive = read_archive(path)
    family, config, _ = _identify(archive, card, path)
    tensors = archive.tensors.values()
    dtypes = Counter(str(tensor.dtype).removeprefix("torch.") for tensor in tensors)
    return Description(
        path=path,
        family=_family_name(archive, family),
        container=archive.container,
        version=2 if config.grn else 1,
        size=_size_of(config),
        config=config,
        parameters=sum(tensor.numel() for tensor in tensors),
        dtypes=tuple(dtype for dtype, _ in dtypes.most_common()),
    )


def _find(name_or_path: str | Path) -> tuple[Path, Card]:
    """The weights file at a path, and what the folder that it belongs to says of it."""
    path = Path(name_or_path).expanduser()
    if not path.exists():
        raise CheckpointError(_unknown(str(name_or_path)))
    path, folder = locate(path)
    return path, Card(path.stem) if folder is None else read_folder_card(folder)


def _assemble(path: Path, sha256: str, card: Card, labels: str | Path | None) -> LoadedModel:
    archive = read_archive(path)
    family, config, card = _identify(archive, card, path)
    if config.in_channels != 3:
        raise CheckpointError(f"{path} takes images of {config.in_channels} channels; only RGB can be served")
    with torch.device("meta"):
        network = ConvNeXt(config)
    network.load_state_dict(own_tensors(archive.tensors, family, config, str(path)), assign=True)
    network.eval().requires_grad_(False)
    notes = [*archive.notes, *card.notes]
    transform = _transform(card, family, config, notes.append)
    return LoadedModel(
        name=card.name,
        network=network,
        transform=transform,
        labels=_labels(card, config, labels, path, notes.append),
        config=config,
        family=_family_name(archive, family),
        licence=card.licence or "unknown",
        sha256=sha256,
        path=path,
        top1=card.top1,
        notes=tuple(notes),
    )


def _identify(archive: Archive, card: Card, path: Path) -> tuple[Family, ConvNeXtConfig, Card]:
    """The family, the configuration and the fullest card of what ``archive`` holds."""
    if is_native(archive.metadata):
        header = read_card(archive.metadata, str(path))
        card = replace(header, top1=card.top1 or header.top1)
    family = recognise(archive.tensors, str(path))
    try:
        config = card.config or infer_config(archive.tensors, family, str(path))
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error
    if card.num_classes not in (None, config.num_classes):
        raise CheckpointMismatch(f"{path}: config.json says {card.num_classes} classes, the head {config.num_classes}")
    eps, head_eps = card.norm_eps or config.norm_eps, card.head_norm_eps or config.head_norm_eps
    return family, replace(config, norm_eps=eps, head_norm_eps=head_eps), card


def _family_name(archive: Archive, family: Family) -> str:
    return "convnext-serve" if is_native(archive.metadata) else family.name


def _transform(card: Card, family: Family, config: ConvNeXtConfig, note: Callable[[str], None]) -> Transform:
    if card.transform is not None:
        return card.transform
    transform = family.transform
    size = _size_of(config)
    if family.name == "torchvision" and (entry := REGISTRY.get(f"convnext_{size}")) and entry.transform:
        transform = entry.transform
    note(f"the file says nothing of its preprocessing; {family.name}'s default is used: {transform}")
    return transform


def _labels(
    card: Card, config: ConvNeXtConfig, override: str | Path | None, path: Path, note: Callable[[str], None]
) -> tuple[str, ...]:
    labels, source = card.labels, str(path)
    if override is not None:
        labels = label_set(str(override)) if str(override) in label_sets() else read_labels(Path(override))
        source = str(override)
    if labels is None and config.num_classes == 1000:
        note("the file names no classes; as they are 1000, ImageNet-1K's names in their usual order are used")
        labels = label_set("imagenet_1k")
    if labels is None:
        note("the file names no classes; they are called class_0, class_1, …")
        labels = tuple(f"class_{index}" for index in range(config.num_classes))
    if len(labels) != config.num_classes:
        raise CheckpointMismatch(f"{source}: {len(labels)} labels for a head of {config.num_classes} classes")
    return labels


def _size_of(config: ConvNeXtConfig) -> str | None:
    for size in SIZES:
        published = config_for(size)
        if (config.depths, config.widths) == (published.depths, published.widths):
            return size
    return None


def _unknown(name: str) -> str:
    near = difflib.get_close_matches(name, REGISTRY, n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else "`convnext-serve weights list` shows their names"
    return f"{name} is neither an existing file or folder nor a registered model: {hint}"
