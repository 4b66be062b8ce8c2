"""Folders saved by timm and transformers: a weights file, and JSON files with the labels and the preprocessing."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from model.checkpoints.image_processor import (
    RESAMPLING,
    Json,
    fractions,
    processor_transform,
    unsupported,
    without_nulls,
)
from model.checkpoints.model_card import ModelCard
from model.errors import CheckpointError
from model.head import Activation
from model.images.transform import IMAGENET_MEAN, IMAGENET_STD, Transform
from model.labels import parse_id_to_label, parse_labels, parse_named_labels

_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_SHARD = re.compile(r"-\d{5}-of-\d{5}\.")
_ONE_FILE = "save one file (max_shard_size='10GB')"
_DESCRIPTIONS = ("config.json", "preprocessor_config.json", "processor_config.json")
_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".pth.tar")
_OTHER_FILES = ("optimizer", "scheduler", "scaler", "training_args", "rng_state")
_PREFERRED = ("model_best.", "checkpoint-best.", "best.", "last.")
_TIMM_SUPPORTED: Mapping[str, tuple[object, ...]] = {  # model_args that leave no trace in the tensors
    "act_layer": (None, "gelu"),
    "norm_layer": (None, "layernorm", "layernorm2d"),
    "global_pool": (None, "avg"),
    "output_stride": (None, 32),
    "kernel_sizes": (None, 7, [7, 7, 7, 7]),
}
_TIMM_INFERRED = {
    *("num_classes", "in_chans", "img_size", "depths", "dims", "stem_type", "patch_size", "head_norm_first"),
    *("head_hidden_size", "conv_mlp", "conv_bias", "use_grn", "ls_init_value", "head_init_scale", "norm_eps"),
}
_TIMM_KEYS = {
    *("architecture", "pretrained_cfg", "label_names", "label_descriptions", "model_args", "num_classes"),
    *("num_features", "global_pool", "mean", "std", "input_size", "crop_pct", "crop_mode", "interpolation"),
}
_TRANSFORMERS_KEYS = {
    *("architectures", "do_pooling", "dtype", "torch_dtype", "initializer_range", "model_type", "problem_type"),
    *("transformers_version", "id2label", "label2id", "_name_or_path"),
}
_PRETRAINED_KEYS = {
    *("url", "file", "state_dict", "hf_hub_id", "hf_hub_filename", "source", "architecture", "tag", "custom_load"),
    *("input_size", "test_input_size", "min_input_size", "fixed_input_size", "interpolation", "crop_pct"),
    *("test_crop_pct", "crop_mode", "mean", "std", "num_classes", "label_offset", "label_names", "notes"),
    *("label_descriptions", "pool_size", "test_pool_size", "first_conv", "classifier", "license", "description"),
    *("origin_url", "paper_name", "paper_ids", "license_link"),
}
_CONVNEXTS = ("convnext", "convnextv2")
_TIMM_TRANSFORM = {"input_size", "interpolation", "crop_pct", "crop_mode", "mean", "std"}
_CLIP_SIZES = (640, 768, 1024)
_MISNAMED = {  # what a hand-written file may call them
    **dict.fromkeys(("image_size", "img_size", "size", "resolution"), "input_size, as [3, 224, 224]"),
    **dict.fromkeys(("labels", "classes", "class_names", "names"), "label_names"),
    **dict.fromkeys(("image_mean", "normalize_mean"), "mean"),
    **dict.fromkeys(("image_std", "normalize_std"), "std"),
    **dict.fromkeys(("resize", "resize_size", "crop_size", "crop"), "crop_pct, which is input_size / resize"),
    "licence": "license",
    "resample": "interpolation",
}
_ACTIVATIONS: Mapping[object, Activation | None] = {
    None: None,
    "single_label_classification": None,  # softmax, or of one class sigmoid, as in transformers' pipeline
    "multi_label_classification": "sigmoid",
}


def locate(path: Path) -> tuple[Path, Path | None]:
    """Returns the weights file at ``path``, and the folder whose JSON files describe it, if there is one.

    Raises ``CheckpointError`` if a folder does not contain exactly one weights file, and for weights that are not
    complete: one of several shards, or the base of an adapter.
    """
    folder = path if path.is_dir() else path.parent
    if (folder / "adapter_config.json").exists():
        raise CheckpointError(f"{folder} has an adapter of PEFT; merge it with merge_and_unload() and save the network")
    if _SHARD.search(path.name):
        raise CheckpointError(f"{path} has a part of the weights; {_ONE_FILE}")
    if not path.is_dir():
        return path, folder if any((folder / name).exists() for name in _DESCRIPTIONS) else None
    for name in _WEIGHTS:
        if (path / name).exists():
            return path / name, path
        if (path / f"{name}.index.json").exists():
            raise CheckpointError(f"{path}: sharded weights are not supported; {_ONE_FILE}")
    found = sorted(f for f in path.iterdir() if f.name.endswith(_SUFFIXES) and not f.name.startswith(_OTHER_FILES))
    for start in _PREFERRED if len(found) > 1 else ():
        found = [file for file in found if file.name.startswith(start)] or found
    if len(found) != 1:
        if not found and (inner := sorted(file.name for file in path.glob("checkpoint-*") if file.is_dir())):
            raise CheckpointError(
                f"{path} has no weights file of its own; serve one of its folders: {', '.join(inner)}"
            )
        names = ", ".join(file.name for file in found) or f"no *{', *'.join(_SUFFIXES)}"
        raise CheckpointError(f"{path} must contain one weights file, {' or '.join(_WEIGHTS)}; found {names}")
    return found[0], path


def read_card(folder: Path) -> ModelCard:
    """Reads the JSON files of a folder; a null value in config.json is treated as absent.

    Raises ``CheckpointError`` if a file is malformed or requires an unsupported feature.
    """
    name, path = folder.resolve().name, folder / "config.json"
    config = without_nulls(_read_json(path)) if path.exists() else {}
    try:
        is_timm = "model_type" not in config or (config.keys() & _TIMM_KEYS and config["model_type"] not in _CONVNEXTS)
        if path.exists() and is_timm:
            card = timm_card(name, config)
        else:
            card = _transformers_card(name, config) if config else ModelCard(name)
        transform = card.transform or _transform_of_processor(folder)
    except (ValueError, TypeError, KeyError, AttributeError, ArithmeticError) as error:
        raise CheckpointError(f"{folder}: unexpected content in the JSON files: {error!r}") from error
    except CheckpointError as error:
        raise CheckpointError(f"{folder}: {error}") from error
    missing = () if path.exists() else (f"{folder} has no config.json",)
    return replace(card, transform=transform, notes=card.notes + missing)


def _transform_of_processor(folder: Path) -> Transform | None:
    """Returns the transform in the file from which transformers loads the processor, if there is one."""
    path = folder / "processor_config.json"
    if path.exists() and "image_processor" in (processor := _read_json(path)):
        return processor_transform(processor["image_processor"])
    path = folder / "preprocessor_config.json"
    return processor_transform(_read_json(path)) if path.exists() else None


def _read_json(path: Path) -> Json:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"Cannot read {path} as JSON: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} does not contain a JSON object")
    return content


def timm_card(name: str, config: Json) -> ModelCard:
    """Returns what a timm ``config.json`` states. Raises ``CheckpointError`` if it requires an unsupported feature."""
    data, arguments = without_nulls(config.get("pretrained_cfg", config)), config.get("model_args", {})
    if "pretrained_cfg" in config:
        unknown = sorted(config.keys() - _TIMM_KEYS - _TRANSFORMERS_KEYS) + sorted(data.keys() - _PRETRAINED_KEYS)
    else:
        unknown = sorted(config.keys() - _TIMM_KEYS - _TRANSFORMERS_KEYS - _PRETRAINED_KEYS - {"labels"})
    for key in unknown:
        if key in _MISNAMED:
            raise CheckpointError(f"unknown key {key!r} in config.json; the name is {_MISNAMED[key]}")
    _check_timm_arguments({"global_pool": config.get("global_pool")} | arguments)
    if str(config.get("architecture", "")).startswith("test_convnext"):
        raise CheckpointError(f"{config['architecture']} is not supported: its activation is not GELU")
    old = None if "pretrained_cfg" in config else config.get("labels")  # in the flat files of timm before 0.8
    stated = {"label_names": config.get("label_names") or data.get("label_names"), "labels": old}
    stated |= {"id2label": config.get("id2label")}
    key, labels = next(((key, labels) for key, labels in stated.items() if labels), ("", None))
    tag, count = str(data.get("tag", "")), config.get("num_classes", data.get("num_classes"))
    if "clip" in tag and "_ft_in" not in tag and labels is None and count in (None, *_CLIP_SIZES):
        raise CheckpointError("the outputs are CLIP embeddings and not classes; fine-tune it as a classifier")
    descriptions = config.get("label_descriptions") or data.get("label_descriptions") or {}
    if labels is not None:
        names = parse_named_labels(key, labels, "config.json")
        labels = parse_labels([descriptions.get(name, name) for name in names], "label_descriptions")
    return ModelCard(
        name=name,
        licence=data.get("license"),
        transform=timm_transform(data) if data.keys() & _TIMM_TRANSFORM else None,
        labels=labels,
        norm_eps=arguments.get("norm_eps"),
        head_norm_eps=arguments.get("norm_eps"),
        num_classes=count,
        patch_size=arguments.get("patch_size"),
        notes=(f"unknown keys in config.json are ignored: {', '.join(unknown)}",) if unknown else (),
        activation=_activation(config),
    )


def _check_timm_arguments(arguments: Json) -> None:
    for key, value in arguments.items():
        if key in _TIMM_INFERRED or key.startswith("drop_"):
            continue
        if key not in _TIMM_SUPPORTED:
            raise CheckpointError(f"unknown model argument {key}={value!r}")
        if value not in _TIMM_SUPPORTED[key]:
            raise unsupported(key, value, repr(_TIMM_SUPPORTED[key][1]))


def timm_transform(data: Json) -> Transform:
    """Returns the evaluation transform of a timm ``pretrained_cfg`` (``timm.data.transforms_imagenet_eval``)."""
    channels, height, width = data.get("input_size", (3, 224, 224))
    if channels != 3:
        raise CheckpointError(f"it expects images with {channels} channels; only RGB is supported")
    crop_pct, mode = data.get("crop_pct") or 0.875, data.get("crop_mode") or "center"
    interpolation = data.get("interpolation", "bicubic")
    if height != width:
        raise CheckpointError(f"the input size {width}×{height} is not square")
    if interpolation not in RESAMPLING.values():
        raise unsupported("interpolation", interpolation, "bilinear and bicubic")
    if mode not in ("center", "squash") or (mode == "squash" and crop_pct != 1):
        raise CheckpointError(f"crop_mode={mode!r} with crop_pct={crop_pct} is not supported")
    return Transform(
        resize_size=math.floor(height / crop_pct),
        crop_size=height,
        interpolation=interpolation,
        mean=fractions("mean", data.get("mean", IMAGENET_MEAN)),
        std=fractions("std", data.get("std", IMAGENET_STD)),
        squash=mode == "squash",
    )


def _transformers_card(name: str, config: Json) -> ModelCard:
    if config["model_type"] not in _CONVNEXTS:
        raise unsupported("model_type", config["model_type"], " and ".join(map(repr, _CONVNEXTS)))
    if config.get("hidden_act", "gelu") != "gelu":
        raise unsupported("hidden_act", config["hidden_act"], "'gelu'")
    labels = config.get("id2label")
    return ModelCard(
        name=name,
        transform=timm_transform(without_nulls(config["pretrained_cfg"])) if "pretrained_cfg" in config else None,
        labels=None if labels is None else parse_id_to_label(labels, "id2label"),
        patch_size=config.get("patch_size", 4),
        head_norm_eps=config.get("layer_norm_eps", 1e-12),
        activation=_activation(config),
    )


def _activation(config: Json) -> Activation | None:
    """Returns the output function that ``problem_type`` of a transformers or TimmWrapper config implies."""
    kind = config.get("problem_type")
    if kind not in _ACTIVATIONS:
        raise unsupported("problem_type", kind, " and ".join(repr(name) for name in _ACTIVATIONS if name))
    return _ACTIVATIONS[kind]
