"""Families: the state dict keys of each library's ConvNeXt, and the configuration inferred from keys and shapes.

Canonical names, those of ``model.convnext``, are timm's. Each table maps them to a family's keys. ``{stage}``,
``{block}`` and ``{part}`` stand for numbers, so the same table translates keys in both directions.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from model.convnext import ConvNeXt, ConvNeXtConfig, Stem
from model.errors import CheckpointError, CheckpointMismatch
from model.images.transform import Transform

Shape = tuple[int, ...]
_LARGEST_PATCH = 4  # times the strides 2, 2, 2 is 32, the output stride of timm
_BLOCK = "stages.{stage}.blocks.{block}"


@dataclass(frozen=True)
class Family:
    """The keys of one library: ``anchor`` matches keys only this family has, ``table`` maps canonical names to keys.

    ``transform`` is the library's default for evaluation, used if a checkpoint does not define one.
    """

    name: str
    anchor: str
    table: Mapping[str, str]
    transform: Transform
    head_norm_eps: float = 1e-6
    norm_before_pool: bool = False
    inner: str = ""  # the part of its keys that contains all but the head

    def canonical_name(self, key: str) -> str | None:
        """Returns the canonical name of ``key``, or None if the family has no such key."""
        return _renamed(key, self._to_canonical)

    def key(self, canonical_name: str) -> str:
        """Returns this family's key for ``canonical_name``."""
        return _renamed(canonical_name, self._to_key) or canonical_name

    @cached_property
    def _to_canonical(self) -> list[tuple[re.Pattern[str], str]]:
        return [(_pattern(key), name) for name, key in self.table.items()]

    @cached_property
    def _to_key(self) -> list[tuple[re.Pattern[str], str]]:
        return [(_pattern(name), key) for name, key in self.table.items()]


def _pattern(template: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\\{(\w+)\\}", r"(?P<\1>\\d+)", re.escape(template)) + r"(?=\.|$)")


def _renamed(name: str, rules: Iterable[tuple[re.Pattern[str], str]]) -> str | None:
    for pattern, template in rules:
        if found := pattern.match(name):
            return template.format(**found.groupdict()) + name[found.end() :]
    return None


_FACEBOOK_KEYS = {
    "stem.{part}": "downsample_layers.0.{part}",
    "stages.{stage}.downsample.{part}": "downsample_layers.{stage}.{part}",
    f"{_BLOCK}.conv_dw": "stages.{stage}.{block}.dwconv",
    f"{_BLOCK}.norm": "stages.{stage}.{block}.norm",
    f"{_BLOCK}.mlp.fc1": "stages.{stage}.{block}.pwconv1",
    f"{_BLOCK}.mlp.grn.weight": "stages.{stage}.{block}.grn.gamma",
    f"{_BLOCK}.mlp.grn.bias": "stages.{stage}.{block}.grn.beta",
    f"{_BLOCK}.mlp.fc2": "stages.{stage}.{block}.pwconv2",
    f"{_BLOCK}.gamma": "stages.{stage}.{block}.gamma",
    "head.norm": "norm",
    "head.fc": "head",
}
_TIMM_KEYS = {"stem": "stem", "stages": "stages", "head": "head"}


def _torchvision_keys() -> dict[str, str]:
    table = {"stem.{part}": "features.0.{part}"}
    for stage in range(4):
        name, key = f"stages.{stage}.blocks.{{block}}", f"features.{2 * stage + 1}.{{block}}"
        parts = {"conv_dw": "block.0", "norm": "block.2", "mlp.fc1": "block.3", "mlp.fc2": "block.5"}
        parts |= {"gamma": "layer_scale"}
        table |= {f"{name}.{part}": f"{key}.{key_part}" for part, key_part in parts.items()}
        table |= {f"stages.{stage}.downsample.{{part}}": f"features.{2 * stage}.{{part}}"} if stage else {}
    return table | {"head.norm": "classifier.0", "head.fc": "classifier.2"}


def _huggingface_keys(prefix: str) -> dict[str, str]:
    stage = f"{prefix}encoder.stages.{{stage}}"
    parts = {"conv_dw": "dwconv", "norm": "layernorm", "mlp.fc1": "pwconv1", "mlp.grn": "grn", "mlp.fc2": "pwconv2"}
    parts |= {"gamma": "layer_scale_parameter"}
    table = {
        "stem.0": f"{prefix}embeddings.patch_embeddings",
        "stem.1": f"{prefix}embeddings.layernorm",
        "stages.{stage}.downsample.{part}": f"{stage}.downsampling_layer.{{part}}",
    }
    table |= {f"{_BLOCK}.{part}": f"{stage}.layers.{{block}}.{key_part}" for part, key_part in parts.items()}
    return table | {"head.norm": f"{prefix}layernorm", "head.fc": "classifier"}


def _mmpretrain_keys() -> dict[str, str]:
    table = {name: f"backbone.{key}" for name, key in _FACEBOOK_KEYS.items() if not name.startswith("head.")}
    parts = {"dwconv": "depthwise_conv", "pwconv1": "pointwise_conv1", "pwconv2": "pointwise_conv2"}
    for old, new in parts.items():
        table = {name: key.replace(old, new) for name, key in table.items()}
    return table | {"head.norm": "backbone.norm3", "head.fc": "head.fc"}


_BICUBIC = Transform(resize_size=256, interpolation="bicubic")
_MM_ANCHOR = r"stages\.\d+\.\d+\.depthwise_conv\."
_HF_ANCHOR = r"encoder\.stages\.\d+\.layers\.\d+\.dwconv\."
FAMILIES = (
    Family("torchvision", r"features\.1\.\d+\.(layer_scale|block\.5\.weight)$", _torchvision_keys(), Transform(256)),
    Family("facebookresearch", r"stages\.\d+\.\d+\.dwconv\.", _FACEBOOK_KEYS, _BICUBIC),
    *(
        Family("huggingface", re.escape(prefix) + _HF_ANCHOR, _huggingface_keys(prefix), _BICUBIC, 1e-12, inner=prefix)
        for prefix in ("convnext.", "convnextv2.", "")
    ),
    Family("timm", r"norm_pre\.", {"head.norm": "norm_pre"} | _TIMM_KEYS, _BICUBIC, norm_before_pool=True),
    Family("timm", r"stages\.\d+\.blocks\.\d+\.conv_dw\.", _TIMM_KEYS, _BICUBIC),
    Family("mmpretrain", r"backbone\." + _MM_ANCHOR, _mmpretrain_keys(), _BICUBIC, inner="backbone."),
)


def detect_family(keys: Iterable[str], source: str) -> Family:
    """Returns the family that ``keys`` belong to. Raises ``CheckpointError`` if no family matches."""
    keys = list(keys)
    for family in FAMILIES:
        if any(re.match(family.anchor, key) for key in keys):
            return family
    known = ", ".join(dict.fromkeys(family.name for family in FAMILIES))
    raise CheckpointError(f"{source} is not a ConvNeXt of a known family ({known}). Its keys are {listed(keys)}.")


def infer_config(
    tensors: Mapping[str, Tensor], family: Family, source: str, patch_size: int | None = None
) -> ConvNeXtConfig:
    """Infers the configuration from keys and shapes.

    ``patch_size`` is the stride of the stem if it is known, which tensors cannot tell. The eps of the norms cannot be
    inferred: it is the family's published value, and 1e-5 for timm's xxlarge.
    Raises ``CheckpointMismatch`` if a key that is needed for this is missing, and ``CheckpointError`` for a stem whose
    stride is unknown or not supported.
    """
    shapes = {name: tuple(tensor.shape) for key, tensor in tensors.items() if (name := family.canonical_name(key))}

    def shape_of(name: str) -> Shape:
        key = family.key(name)
        if name not in shapes:
            others = [other for other in tensors if other.startswith(f"{key.removesuffix('weight')}")]
            reason = "; the network has no classification head" if name.startswith("head.fc") else ""
            reason = f", found {listed(others)}" if others else reason
            raise CheckpointMismatch(f"{source} ({family.name}): missing key {key}{reason}")
        if len(shapes[name]) < 2 or not all(shapes[name]):
            raise CheckpointMismatch(f"{source} ({family.name}): {key} has the unexpected shape {shapes[name]}")
        return shapes[name]

    depths, num_classes = _depths(shapes, source), shape_of("head.fc.weight")[0]
    stem, first = _stem(shapes), shape_of("stem.0.weight")
    config = ConvNeXtConfig(
        depths=depths,
        widths=tuple(shape_of(f"stages.{stage}.blocks.0.conv_dw.weight")[0] for stage in range(len(depths))),
        num_classes=num_classes,
        in_channels=first[1],
        stem=stem,
        patch_size=first[-1] if stem == "patch" else 4,
        stem_width=None if stem == "patch" else first[0],
        layer_scale=any(name.endswith(".gamma") for name in shapes),
        grn=any(".mlp.grn." in name for name in shapes),
        head_norm_eps=family.head_norm_eps,
        norm_before_pool=family.norm_before_pool,
    )
    if config.stem == "patch":
        _check_patch_size(config.patch_size, patch_size, family, source)
    if config.depths == (3, 4, 30, 3) and config.widths[0] == 384:
        return replace(config, norm_eps=1e-5, head_norm_eps=1e-5)
    return config


def _check_patch_size(found: int, stated: int | None, family: Family, source: str) -> None:
    """Raises ``CheckpointError`` for a stem whose stride is not certain, and where timm lowers the strides after it."""
    if family.name == "timm" and found > _LARGEST_PATCH:
        reason = f"timm replaces the strides of later stages by dilation for patch_size={found}, which is not supported"
        raise CheckpointError(f"{source}: {reason}")
    if found not in (4, stated):
        raise CheckpointError(
            f"{source}: the stem is a convolution of {found}×{found}, and tensors do not tell its stride. If it is "
            f'{found}, without padding, put a config.json with {{"model_args": {{"patch_size": {found}}}}} beside it '
            "and use the folder; other strides are not supported"
        )


def _depths(shapes: Mapping[str, Shape], source: str) -> Shape:
    depths: dict[int, int] = {}
    for name in shapes:
        if found := re.match(r"stages\.(\d+)\.blocks\.(\d+)\.", name):
            stage, block = int(found.group(1)), int(found.group(2))
            depths[stage] = max(depths.get(stage, 0), block + 1)
    counts = (*depths, *depths.values())
    if not counts or max(counts) > len(shapes):
        raise CheckpointMismatch(f"{source}: implausible numbers of blocks {depths} in {len(shapes)} tensors")
    return tuple(depths.get(stage, 1) for stage in range(max(depths) + 1))


def _stem(shapes: Mapping[str, Shape]) -> Stem:
    if len(shapes.get("stem.1.weight", ())) == 4:
        return "overlap"
    return "overlap_act" if len(shapes.get("stem.2.weight", ())) == 4 else "patch"


def canonical_state_dict(
    tensors: Mapping[str, Tensor], family: Family, config: ConvNeXtConfig, source: str
) -> dict[str, Tensor]:
    """Returns the complete float32 state dict of ``ConvNeXt(config)``, copied from a file's tensors.

    Raises ``CheckpointMismatch`` listing missing keys, unexpected keys and size mismatches, and ``CheckpointError``
    if a tensor is not dense, not floating point, or contains NaN or infinity.
    """
    with torch.device("meta"):
        expected = {name: tuple(tensor.shape) for name, tensor in ConvNeXt(config).state_dict().items()}
    found: dict[str, Tensor] = {}
    unexpected: list[str] = []
    for key, tensor in tensors.items():
        name = family.canonical_name(key)
        if name in expected and name not in found:
            found[name] = tensor
        else:
            unexpected.append(f"{key} {tuple(tensor.shape)}")
    problems = {
        "missing key": [f"{family.key(name)} {shape}" for name, shape in expected.items() if name not in found],
        "unexpected key": unexpected,
        "size mismatch": [
            f"{family.key(name)} expected {expected[name]}, found {tuple(tensor.shape)}"
            for name, tensor in found.items()
            if _squeezed(tensor.shape) != _squeezed(expected[name])
        ],
    }
    if any(problems.values()):
        listing = "; ".join(f"{kind}: {listed(keys)}" for kind, keys in problems.items() if keys)
        raise CheckpointMismatch(f"{source} ({family.name}) does not match the network. {listing}")
    return {name: _float32(found[name], family.key(name), source).reshape(shape) for name, shape in expected.items()}


def _squeezed(shape: Iterable[int]) -> list[int]:
    """Returns a shape without ones: 1×1 convolutions are linear layers, and (1, 1, 1, C) or (C, 1, 1) are vectors."""
    return [size for size in shape if size != 1]


def listed(keys: list[str], limit: int = 4) -> str:
    """The first keys, for a message."""
    return ", ".join(keys[:limit]) + (f" and {len(keys) - limit} more" if len(keys) > limit else "")


def is_dense(tensor: Tensor) -> bool:
    """Whether a tensor has all of its numbers: it is not sparse, and not on the meta device."""
    return tensor.layout == torch.strided and not tensor.is_meta


def _float32(tensor: Tensor, key: str, source: str) -> Tensor:
    if not tensor.is_floating_point():
        raise CheckpointError(f"{source}: {key} has dtype {tensor.dtype}, expected floating point")
    if not is_dense(tensor):
        raise CheckpointError(f"{source}: {key} is a sparse tensor or has no data; save it as a dense tensor")
    tensor = tensor.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
    if not torch.isfinite(tensor).all():
        raise CheckpointError(f"{source}: {key} contains NaN or infinity")
    return tensor
