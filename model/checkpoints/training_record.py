"""The class names and the options of the training script in a training checkpoint."""

import argparse
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor

from model.checkpoints.families import is_dense
from model.checkpoints.hf_folder import timm_card
from model.checkpoints.model_card import ModelCard
from model.errors import CheckpointError, CheckpointMismatch
from model.images.transform import IMAGENET_MEAN, IMAGENET_STD, Transform
from model.labels import LABEL_KEYS, parse_named_labels

_MAX_DEPTH = 3
_TIMM_OPTIONS = ("input_size", "crop_pct", "interpolation", "mean", "std")
_SIDES = ("img_size", "image_size", "imgsz")
_INCEPTION = (0.5, 0.5, 0.5)

Record = Mapping[str, Any]  # Any: unpickled content


def read_options(record: Record, name: str, source: str) -> ModelCard:
    """Returns the preprocessing and the architecture that the options of a training script, or of timm, state.

    The scripts are those of timm, torchvision and the authors. Raises ``CheckpointError`` if an option is malformed or
    not supported.
    """
    try:
        for options in _mappings(record):
            if "val_resize_size" in options:
                return ModelCard(name, transform=_torchvision_transform(options))
            if "imagenet_default_mean_and_std" in options:
                return ModelCard(name, transform=_authors_transform(options))
            if options.keys() >= set(_TIMM_OPTIONS):
                return _timm_card(name, _plain(options))
    except CheckpointError as error:
        raise CheckpointError(f"{source}: the training options: {error}") from error
    except (ValueError, TypeError, KeyError, AttributeError, ArithmeticError, RuntimeError) as error:
        raise CheckpointError(f"{source}: unexpected content in the training options: {error!r}") from error
    return ModelCard(name)


def check_options(record: Record, assumed: Transform, source: str) -> None:
    """Raises ``CheckpointMismatch`` if an option of another script contradicts the transform that is assumed."""
    used: dict[str, tuple[float, ...]] = dict.fromkeys(_SIDES, (assumed.crop_size,))
    used |= {"mean": assumed.mean, "std": assumed.std}
    for options in _mappings(record):
        for key in (key for key in used if key in options):
            numbers = options[key] if isinstance(options[key], list | tuple) else [options[key]]
            numbers = numbers[-1:] if key in _SIDES else numbers
            is_stated = len(numbers) == len(used[key]) and all(isinstance(number, int | float) for number in numbers)
            pairs = zip(numbers, used[key], strict=True) if is_stated else ()
            if not all(number - 1e-3 < stated < number + 1e-3 for stated, number in pairs):
                raise CheckpointMismatch(
                    f"{source} has the option {key}={options[key]}, but not all of the preprocessing; describe it in a "
                    f"config.json beside the file, as without one it would be {assumed}"
                )


def _torchvision_transform(options: Record) -> Transform:
    """The evaluation of torchvision's references/classification."""
    return Transform(options["val_resize_size"], options["val_crop_size"], options.get("interpolation", "bilinear"))


def _authors_transform(options: Record) -> Transform:
    """The evaluation of the authors' datasets.py."""
    side, is_imagenet = options["input_size"], options["imagenet_default_mean_and_std"]
    if side <= 32:
        raise CheckpointError(f"input_size={side} is not supported; the authors do not resize images to it")
    return Transform(
        resize_size=side if side >= 384 else int(side / (options.get("crop_pct") or 224 / 256)),
        crop_size=side,
        interpolation="bicubic",
        mean=IMAGENET_MEAN if is_imagenet else _INCEPTION,
        std=IMAGENET_STD if is_imagenet else _INCEPTION,
        squash=side >= 384,
    )


def _timm_card(name: str, options: Record) -> ModelCard:
    """The evaluation of timm's train.py, where an option without a value is that of the architecture."""
    data = {key: options[key] for key in (*_TIMM_OPTIONS, "crop_mode") if options.get(key)}
    data |= {key: list(data[key]) * 3 for key in ("mean", "std") if len(data.get(key, ())) == 1}
    if options.get("img_size"):
        data = {"input_size": (3, options["img_size"], options["img_size"])} | data
    missing = [key for key in _TIMM_OPTIONS if key not in data]
    pool = {"global_pool": options["gp"]} if options.get("gp") else {}
    card = timm_card(name, {"pretrained_cfg": data, "model_args": options.get("model_kwargs") or {}} | pool)
    if not (data and missing):
        return card
    return replace(card, notes=(f"the training options have no {', '.join(missing)}; using {card.transform}",))


def read_class_names(record: Record, num_classes: int, source: str) -> tuple[tuple[str, ...] | None, tuple[str, ...]]:
    """Returns the names of the classes, by index, and notes on names that are not used.

    Raises ``CheckpointError`` if the same names are in different orders.
    """
    found: dict[str, tuple[str, ...]] = {}
    notes = []
    for key, value in _named(record):
        try:
            names = parse_named_labels(key, value, "the file")
        except CheckpointError as error:
            notes.append(f"names of classes are not used: {error}")
            continue
        if len(names) == num_classes:
            found.setdefault(key, names)
        else:
            notes.append(
                f"the {len(names)} names of {key} in the file are not used, as there are {num_classes} classes"
            )
    if not found:
        return None, tuple(notes)
    first = min(found, key=LABEL_KEYS.index)
    for key, names in found.items():
        if names != found[first] and sorted(names) == sorted(found[first]):
            raise CheckpointError(f"{source}: {first} and {key} have the same classes in different orders")
    return found[first], tuple(notes)


def _named(record: Record) -> Iterator[tuple[str, Any]]:  # Any: as above
    """What is under the usual keys of class names, with the key, as JSON has it."""
    for options in _mappings(record):
        for key, value in options.items():
            name = key.lower() if isinstance(key, str) else ""
            if name in LABEL_KEYS and name != "names":  # may be those of metrics or parameters
                names = _plain(value)
                if isinstance(names, list | dict):
                    yield name, names


def _mappings(value: object, depth: int = 0) -> Iterator[Record]:
    """A mapping, of which text may be JSON, as in the header of safetensors, and those in it."""
    value = _parsed(value) if isinstance(value, str) else value
    value = vars(value) if isinstance(value, argparse.Namespace) else value
    if isinstance(value, Mapping):
        yield value
        for item in value.values() if depth < _MAX_DEPTH else ():
            yield from _mappings(item, depth + 1)


def _parsed(text: str) -> Any:  # Any: parsed JSON
    try:
        return json.loads(text) if text.startswith(("[", "{")) else text
    except (ValueError, RecursionError):
        return text


def _plain(value: Any, depth: int = 0) -> Any:  # Any: as above
    """What JSON would have of a value, and None of what is nested too deeply, as in a cycle, or has no numbers."""
    value = _parsed(value) if isinstance(value, str) else value
    if depth > _MAX_DEPTH:
        return None
    if isinstance(value, Mapping):
        return {str(key): _plain(item, depth + 1) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic | Tensor):
        return value.tolist() if not isinstance(value, Tensor) or is_dense(value) else None
    return [_plain(item, depth + 1) for item in value] if isinstance(value, list | tuple) else value
