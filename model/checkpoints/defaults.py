"""What a checkpoint is assumed to have where it says nothing: labels, output function and preprocessing."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from model.checkpoints.families import Family
from model.checkpoints.registry import registered_weights
from model.convnext import SIZES, ConvNeXtConfig, config_for
from model.errors import CheckpointError, CheckpointMismatch
from model.head import Activation
from model.images.transform import Transform
from model.labels import label_set, label_sets, read_labels

Note = Callable[[str], None]


def size_of(config: ConvNeXtConfig) -> str | None:
    """Returns the published size that has these depths and widths, one of ``SIZES``, or None."""
    for size in SIZES:
        published = config_for(size)
        if (config.depths, config.widths) == (published.depths, published.widths):
            return size
    return None


def default_transform(family: Family, config: ConvNeXtConfig, note: Note) -> Transform:
    """Returns the evaluation transform of the library that saved the checkpoint."""
    entry = registered_weights().get(f"convnext_{size_of(config)}") if family.name == "torchvision" else None
    transform = entry.transform if entry and entry.transform else family.transform
    note(f"no preprocessing in the checkpoint; using the default of {family.name}: {transform}")
    return transform


def choose_activation(
    stated: Activation | None, requested: Literal["auto", "softmax", "sigmoid"], num_classes: int, source: str
) -> Activation:
    """Returns the output function: the requested one, that of the checkpoint, or sigmoid for a single class.

    Raises ``CheckpointError`` for softmax over one class, which is 1 for every image.
    """
    activation = requested if requested != "auto" else stated or ("sigmoid" if num_classes == 1 else "softmax")
    if activation == "softmax" and num_classes == 1:
        raise CheckpointError(f"{source} has one class, for which softmax is 1 for every image; use sigmoid")
    return activation


def choose_labels(
    labels: tuple[str, ...] | None, num_classes: int, override: str | Path | None, path: Path, note: Note
) -> tuple[str, ...]:
    """Returns one label per class: those of the file ``override``, else ``labels``, else assumed ones.

    Raises ``CheckpointMismatch`` if their number is not ``num_classes``.
    """
    if override is not None:
        labels = label_set(str(override)) if str(override) in label_sets() else read_labels(Path(override))
    elif labels is None and num_classes == 1000:
        note("no labels in the checkpoint; using the ImageNet-1K labels because it has 1000 classes")
        labels = label_set("imagenet_1k")
    elif labels is None:
        note("no labels in the checkpoint; using class_0, class_1, …")
        labels = tuple(f"class_{index}" for index in range(num_classes))
    if len(labels) != num_classes:
        hint = "; a single output is the probability of one class: give its name" if num_classes == 1 else ""
        raise CheckpointMismatch(f"{override or path}: found {len(labels)} labels, expected {num_classes}{hint}")
    duplicates = [label for label, count in Counter(labels).items() if count > 1]
    if duplicates:
        note(f"{len(duplicates)} labels name more than one class, for example {duplicates[0]!r}")
    return labels
