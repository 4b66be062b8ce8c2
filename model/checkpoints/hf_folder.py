"""Folders as timm and transformers save them: one weights file, and JSON that names classes and preprocessing."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from model.checkpoints.model_card import Card
from model.errors import CheckpointError
from model.labels import parse_labels
from model.preprocess import Transform

_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
_HF_PROCESSORS = (
    "ConvNextImageProcessor",
    "ConvNextImageProcessorFast",
    "ConvNextImageProcessorPil",
    "ConvNextFeatureExtractor",
)
_TIMM_ARGUMENTS: Mapping[str, tuple[Any, ...]] = {  # what would change the arithmetic unseen → the values that do not
    "act_layer": (None, "gelu"),
    "norm_layer": (None, "layernorm", "layernorm2d"),
    "global_pool": (None, "avg"),
    "output_stride": (None, 32),
    "kernel_sizes": (None, 7, [7, 7, 7, 7]),
}
_TIMM_SEEN_IN_TENSORS = {
    *("num_classes", "in_chans", "img_size", "depths", "dims", "stem_type", "patch_size", "head_norm_first"),
    *("head_hidden_size", "conv_mlp", "conv_bias", "use_grn", "ls_init_value", "head_init_scale", "norm_eps"),
}
_HF_RESAMPLING: Mapping[int, Literal["bilinear", "bicubic"]] = {2: "bilinear", 3: "bicubic"}

Json = Mapping[str, Any]  # Any: parsed JSON


def locate(path: Path) -> tuple[Path, Path | None]:
    """The weights file that ``path`` means, and the folder whose JSON belongs to it, if any.

    A file under a name that the libraries give in their folders belongs to its folder where a config.json is there.
    Raises ``CheckpointError`` where a folder holds no weights file, several, or one in shards.
    """
    if not path.is_dir():
        beside = path.name in _WEIGHTS and (path.parent / "config.json").exists()
        return path, path.parent if beside else None
    for name in _WEIGHTS:
        if (path / name).exists():
            return path / name, path
        if (path / f"{name}.index.json").exists():
            raise CheckpointError(f"{path} holds its weights in shards; save them in one file (max_shard_size='10GB')")
    found = sorted(file for file in path.iterdir() if file.suffix in _SUFFIXES)
    if len(found) != 1:
        names = ", ".join(file.name for file in found) or f"none of *{', *'.join(_SUFFIXES)}"
        raise CheckpointError(f"{path} should hold one weights file, {' or '.join(_WEIGHTS)}; it has {names}")
    return found[0], path


def read_card(folder: Path) -> Card:
    """What the folder's config.json and preprocessor_config.json say.

    Raises ``CheckpointError`` where they ask for something that would have to be done differently from what they say.
    """
    name, path = folder.resolve().name, folder / "config.json"
    if not path.exists():
        return Card(name, notes=(f"{folder} has no config.json",))
    config = _read(path)
    try:
        if "pretrained_cfg" in config or "architecture" in config:
            return _timm_card(name, config)
        return _huggingface_card(name, config, folder)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{folder}: its JSON files have an unexpected content: {error!r}") from error
    except CheckpointError as error:
        raise CheckpointError(f"{folder}: {error}") from error


def _read(path: Path) -> Json:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds no JSON object")
    return content


def _timm_card(name: str, config: Json) -> Card:
    data, arguments = config.get("pretrained_cfg", config), config.get("model_args") or {}
    _check_timm_arguments({"global_pool": config.get("global_pool")} | arguments)
    if str(config.get("architecture", "")).startswith("test_convnext"):
        raise CheckpointError(f"{config['architecture']} has another activation than GELU")
    labels = config.get("label_names") or data.get("label_names")
    descriptions = config.get("label_descriptions") or data.get("label_descriptions") or {}
    names = None if labels is None else parse_labels(labels, "label_names")
    return Card(
        name=name,
        licence=data.get("license"),
        transform=_timm_transform(data),
        labels=None if names is None else tuple(descriptions.get(label, label) for label in names),
        norm_eps=arguments.get("norm_eps"),
        head_norm_eps=arguments.get("norm_eps"),
        num_classes=config.get("num_classes", data.get("num_classes")),
    )


def _check_timm_arguments(arguments: Json) -> None:
    for key, value in arguments.items():
        if key in _TIMM_SEEN_IN_TENSORS or key.startswith("drop_"):
            continue
        if key not in _TIMM_ARGUMENTS:
            raise CheckpointError(f"model_args has {key}={value!r}, which is not known here")
        if value not in _TIMM_ARGUMENTS[key]:
            raise CheckpointError(f"{key}={value!r} is not implemented; {_TIMM_ARGUMENTS[key][1]!r} is")


def _timm_transform(data: Json) -> Transform:
    """timm's evaluation transform of a ``pretrained_cfg`` (timm.data.transforms_factory.transforms_imagenet_eval)."""
    _, height, width = data.get("input_size", (3, 224, 224))
    crop_pct, mode = data.get("crop_pct") or 0.875, data.get("crop_mode") or "center"
    interpolation = data.get("interpolation", "bicubic")
    if height != width:
        raise CheckpointError(f"images of {width}×{height} are not square")
    if interpolation not in _HF_RESAMPLING.values():
        raise CheckpointError(f"interpolation={interpolation!r} is not implemented; bilinear and bicubic are")
    if mode not in ("center", "squash") or (mode == "squash" and crop_pct != 1):
        raise CheckpointError(f"crop_mode={mode!r} with crop_pct={crop_pct} is not implemented")
    return Transform(
        resize_size=math.floor(height / crop_pct),
        crop_size=height,
        interpolation=interpolation,
        mean=_three(data.get("mean", (0.485, 0.456, 0.406))),
        std=_three(data.get("std", (0.229, 0.224, 0.225))),
        squash=mode == "squash",
    )


def _huggingface_card(name: str, config: Json, folder: Path) -> Card:
    if config.get("model_type") not in ("convnext", "convnextv2"):
        raise CheckpointError(f"config.json is of a {config.get('model_type')!r}, not of a ConvNeXt")
    if config.get("hidden_act", "gelu") != "gelu":
        raise CheckpointError(f"hidden_act={config['hidden_act']!r} is not implemented; 'gelu' is")
    if config.get("problem_type") not in (None, "single_label_classification"):
        raise CheckpointError(f"problem_type={config['problem_type']!r} is not served: one class per image is")
    labels, processor = config.get("id2label"), folder / "preprocessor_config.json"
    return Card(
        name=name,
        transform=_huggingface_transform(_read(processor)) if processor.exists() else None,
        labels=None if labels is None else parse_labels(labels, "id2label"),
        head_norm_eps=config.get("layer_norm_eps", 1e-12),
        notes=() if processor.exists() else (f"{folder} has no preprocessor_config.json",),
    )


def _huggingface_transform(processor: Json) -> Transform:
    """What transformers' ConvNextImageProcessor does; a key that is absent has that class's default."""
    kind = processor.get("image_processor_type", processor.get("feature_extractor_type"))
    if kind not in _HF_PROCESSORS:
        raise CheckpointError(f"preprocessing by {kind} is not implemented; {_HF_PROCESSORS[0]}'s is")
    for key in ("do_resize", "do_rescale"):
        if not processor.get(key, True):
            raise CheckpointError(f"{key}=false leaves no image of a fixed size in 0…1")
    if processor.get("do_center_crop"):
        raise CheckpointError("do_center_crop after the resize's own crop is not implemented")
    if not math.isclose(processor.get("rescale_factor", 1 / 255), 1 / 255, rel_tol=1e-6):
        raise CheckpointError(f"rescale_factor={processor['rescale_factor']} is not 1/255")
    size, resample = processor.get("size", {"shortest_edge": 384}), processor.get("resample", 3)
    if resample not in _HF_RESAMPLING:
        raise CheckpointError(f"resample={resample} is not implemented; 2 (bilinear) and 3 (bicubic) are")
    side = size if isinstance(size, int) else size["shortest_edge"]
    normalised = processor.get("do_normalize", True)
    return Transform(
        resize_size=int(side / processor.get("crop_pct", 224 / 256)) if side < 384 else side,
        crop_size=side,
        interpolation=_HF_RESAMPLING[resample],
        mean=_three(processor.get("image_mean", 0.5) if normalised else 0),
        std=_three(processor.get("image_std", 0.5) if normalised else 1),
        squash=side >= 384,
        floor_margin=True,
    )


def _three(value: Any) -> tuple[float, float, float]:  # Any: parsed JSON, a number for all channels or a list
    red, green, blue = (value,) * 3 if isinstance(value, int | float) else value
    return float(red), float(green), float(blue)
