"""Image processors of transformers, as JSON: the transform that they make of an image."""

import math
from collections.abc import Mapping
from typing import Any, Literal

from model.errors import CheckpointError
from model.images.transform import Transform

_CONVNEXT_PROCESSORS = (None, "ConvNextImageProcessor", "ConvNextFeatureExtractor")  # None is that of the network
_PLAIN_PROCESSORS = ("ViTImageProcessor", "BitImageProcessor", "CLIPImageProcessor")
_CONVNEXT_DEFAULTS: Mapping[str, object] = {
    "size": {"shortest_edge": 384},
    "crop_pct": 224 / 256,
    "resample": 3,
    "image_mean": 0.5,
    "image_std": 0.5,
}
RESAMPLING: Mapping[int, Literal["bilinear", "bicubic"]] = {2: "bilinear", 3: "bicubic"}

Json = Mapping[str, Any]  # Any: parsed JSON


def without_nulls(content: Json) -> Json:
    """A JSON object without the keys that are null."""
    return {key: value for key, value in content.items() if value is not None}


def processor_transform(processor: Json) -> Transform:
    """Returns the transform of transformers' ConvNextImageProcessor, with its defaults for absent keys, or of others.

    A null that is a switch is off, as in transformers.
    """
    switches = {key: bool(value) for key, value in processor.items() if key.startswith("do_")}
    processor = dict(without_nulls(processor)) | switches
    kind = processor.get("image_processor_type", processor.get("feature_extractor_type"))
    kind = kind and str(kind).removesuffix("Fast").removesuffix("Pil")
    if kind in _CONVNEXT_PROCESSORS:
        processor = {**_CONVNEXT_DEFAULTS, **processor}
    elif kind not in _PLAIN_PROCESSORS:
        raise unsupported("image_processor_type", kind, ", ".join((*_CONVNEXT_PROCESSORS[1:], *_PLAIN_PROCESSORS)))
    for key in ("do_resize", "do_rescale"):
        if not processor.get(key, True):
            raise unsupported(key, False, "True")
    if not math.isclose(processor.get("rescale_factor", 1 / 255), 1 / 255, rel_tol=1e-6):
        raise unsupported("rescale_factor", processor["rescale_factor"], "1/255")
    if processor["resample"] not in RESAMPLING:
        raise unsupported("resample", processor["resample"], "2 (bilinear) and 3 (bicubic)")
    resize, crop, squash = (_convnext_sizes if kind in _CONVNEXT_PROCESSORS else _plain_sizes)(processor)
    normalize = processor.get("do_normalize", True)
    return Transform(
        resize_size=resize,
        crop_size=crop,
        interpolation=RESAMPLING[processor["resample"]],
        mean=fractions("image_mean", processor["image_mean"] if normalize else 0),
        std=fractions("image_std", processor["image_std"] if normalize else 1),
        squash=squash,
        floor_margin=True,
    )


def _convnext_sizes(processor: Json) -> tuple[int, int, bool]:
    """The sizes of ConvNextImageProcessor to resize to and to crop, and whether it resizes both sides instead."""
    if processor.get("do_center_crop"):
        raise unsupported("do_center_crop", True, "False")
    side = processor["size"] if isinstance(processor["size"], int) else processor["size"]["shortest_edge"]
    return (int(side / processor["crop_pct"]), side, False) if side < 384 else (side, side, True)


def _plain_sizes(processor: Json) -> tuple[int, int, bool]:
    """Those of a processor that resizes both sides, or the shorter one and crops the center."""
    size, crop = processor["size"], processor["crop_size"] if processor.get("do_center_crop") else None
    shape = crop or size
    if shape["height"] != shape["width"] or (crop is None) != ("height" in size):
        raise CheckpointError(f"size={size} with crop_size={crop} is not supported; the input must be square")
    side = shape["height"]
    return (side if crop is None else size["shortest_edge"]), side, crop is None


def fractions(key: str, value: Any) -> tuple[float, float, float]:  # Any: parsed JSON, a number or a list
    """Returns three numbers from 0 to 1, the scale of the pixels."""
    red, green, blue = (value,) * 3 if isinstance(value, int | float) else value
    numbers = float(red), float(green), float(blue)
    if not all(0 <= number <= 1 for number in numbers):
        raise CheckpointError(f"{key}={value!r} is not of pixels from 0 to 1; divide numbers of 0 to 255 by 255")
    return numbers


def unsupported(key: str, value: object, supported: str) -> CheckpointError:
    """The error for a value that the service cannot reproduce."""
    return CheckpointError(f"{key}={value!r} is not supported, only {supported}")
