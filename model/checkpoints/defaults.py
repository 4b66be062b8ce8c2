"""Labels, output function and preprocessing that a checkpoint does not specify."""

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Literal

from model.checkpoints.network_search import FoundNetwork
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


def choose_transform(
    stated: Transform | None, found: FoundNetwork, config: ConvNeXtConfig, source: str, note: Note
) -> Transform:
    """Returns the transform of the checkpoint, else the evaluation transform of the library that saved it.

    A layer before the network that normalizes replaces the normalization of the latter.
    Raises ``CheckpointMismatch`` if it differs from that of the former.
    """
    family, transform = found.family, stated
    if transform is None:
        entry = registered_weights().get(f"convnext_{size_of(config)}") if family.name == "torchvision" else None
        transform = entry.transform if entry and entry.transform else family.transform
        if found.normalization:
            transform = replace(transform, mean=found.normalization[0], std=found.normalization[1])
        note(f"no preprocessing in the checkpoint; using the default of {family.name}: {transform}")
    elif found.normalization:
        numbers = zip((*transform.mean, *transform.std), chain(*found.normalization), strict=True)
        if not all(math.isclose(first, second, abs_tol=1e-3) for first, second in numbers):
            raise CheckpointMismatch(
                f"{source}: the file normalizes by {found.normalization}, its configuration by "
                f"{transform.mean} and {transform.std}"
            )
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
