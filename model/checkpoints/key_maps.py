"""Families: how each library spells the names of a ConvNeXt's tensors, and what their shapes tell of it.

The project's own names are timm's. Every table maps own names to a family's, in templates of ``{stage}``, ``{block}``
and ``{part}`` numbers, so that one table serves both for reading a file and for naming its tensors in an error.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from model.convnext import ConvNeXt, ConvNeXtConfig, Stem
from model.errors import CheckpointError, CheckpointMismatch
from model.preprocess import Transform

Shape = tuple[int, ...]
_BLOCK = "stages.{stage}.blocks.{block}"


@dataclass(frozen=True)
class Family:
    """One library's spelling: ``anchor`` is a name that only its ConvNeXt has, ``table`` maps own names to its names.

    ``transform`` is the library's evaluation default, for a file that comes with none of its own.
    """

    name: str
    anchor: str
    table: Mapping[str, str]
    transform: Transform
    head_norm_eps: float = 1e-6
    norm_before_pool: bool = field(default=False)

    def own_name(self, name: str) -> str | None:
        """The own name of the file's tensor ``name``; None where the family has no such tensor."""
        return _renamed(name, self._from_file)

    def file_name(self, own_name: str) -> str:
        """How a file of this family spells the tensor ``own_name``."""
        return _renamed(own_name, self._to_file) or own_name

    @cached_property
    def _from_file(self) -> list[tuple[re.Pattern[str], str]]:
        return [(_pattern(theirs), own) for own, theirs in self.table.items()]

    @cached_property
    def _to_file(self) -> list[tuple[re.Pattern[str], str]]:
        return [(_pattern(own), theirs) for own, theirs in self.table.items()]


def _pattern(template: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\\{(\w+)\\}", r"(?P<\1>\\d+)", re.escape(template)) + r"(?=\.|$)")


def _renamed(name: str, rules: Iterable[tuple[re.Pattern[str], str]]) -> str | None:
    for pattern, template in rules:
        if found := pattern.match(name):
            return template.format(**found.groupdict()) + name[found.end() :]
    return None


_FACEBOOK = {
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
_TIMM = {"stem": "stem", "stages": "stages", "head": "head"}


def _torchvision() -> dict[str, str]:
    table = {"stem.{part}": "features.0.{part}"}
    for stage in range(4):
        theirs, own = f"features.{2 * stage + 1}.{{block}}", f"stages.{stage}.blocks.{{block}}"
        parts = {"conv_dw": "block.0", "norm": "block.2", "mlp.fc1": "block.3", "mlp.fc2": "block.5"}
        table |= {f"{own}.{part}": f"{theirs}.{their_part}" for part, their_part in parts.items()}
        table |= {f"{own}.gamma": f"{theirs}.layer_scale"}
        table |= {f"stages.{stage}.downsample.{{part}}": f"features.{2 * stage}.{{part}}"} if stage else {}
    return table | {"head.norm": "classifier.0", "head.fc": "classifier.2"}


def _huggingface(prefix: str) -> dict[str, str]:
    stage = f"{prefix}encoder.stages.{{stage}}"
    parts = {"conv_dw": "dwconv", "norm": "layernorm", "mlp.fc1": "pwconv1", "mlp.grn": "grn", "mlp.fc2": "pwconv2"}
    table = {
        "stem.0": f"{prefix}embeddings.patch_embeddings",
        "stem.1": f"{prefix}embeddings.layernorm",
        "stages.{stage}.downsample.{part}": f"{stage}.downsampling_layer.{{part}}",
        f"{_BLOCK}.gamma": f"{stage}.layers.{{block}}.layer_scale_parameter",
    }
    table |= {f"{_BLOCK}.{part}": f"{stage}.layers.{{block}}.{theirs}" for part, theirs in parts.items()}
    return table | {"head.norm": f"{prefix}layernorm", "head.fc": "classifier"}


_BICUBIC = Transform(resize_size=256, interpolation="bicubic")
_HF_ANCHOR = r"encoder\.stages\.\d+\.layers\.\d+\.dwconv\."
FAMILIES = (
    Family("torchvision", r"features\.1\.\d+\.(layer_scale|block\.5\.weight)$", _torchvision(), Transform(256)),
    Family("facebookresearch", r"stages\.\d+\.\d+\.dwconv\.", _FACEBOOK, _BICUBIC),
    Family("huggingface", r"convnext\." + _HF_ANCHOR, _huggingface("convnext."), _BICUBIC, 1e-12),
    Family("huggingface", r"convnextv2\." + _HF_ANCHOR, _huggingface("convnextv2."), _BICUBIC, 1e-12),
    Family("huggingface", _HF_ANCHOR, _huggingface(""), _BICUBIC, 1e-12),
    Family("timm", r"norm_pre\.", {"head.norm": "norm_pre"} | _TIMM, _BICUBIC, norm_before_pool=True),
    Family("timm", r"stages\.\d+\.blocks\.\d+\.conv_dw\.", _TIMM, _BICUBIC),
)


def recognise(names: Iterable[str], source: str) -> Family:
    """The family whose spelling ``names`` have. Raises ``CheckpointError`` where it is no ConvNeXt's."""
    names = list(names)
    for family in FAMILIES:
        if any(re.match(family.anchor, name) for name in names):
            return family
    known = ", ".join(dict.fromkeys(family.name for family in FAMILIES))
    raise CheckpointError(
        f"{source} is no ConvNeXt of a known family ({known}): its tensors are {', '.join(names[:3])}, …"
    )


def infer_config(tensors: Mapping[str, Tensor], family: Family, source: str) -> ConvNeXtConfig:
    """The configuration that a file's names and shapes tell of.

    What shapes cannot tell (the eps of the norms) is the family's published value, and 1e-5 for timm's xxlarge.
    Raises ``CheckpointMismatch`` where a tensor that decides is missing.
    """
    shapes = {own: tuple(tensor.shape) for name, tensor in tensors.items() if (own := family.own_name(name))}

    def shape_of(own_name: str) -> Shape:
        if own_name not in shapes:
            raise CheckpointMismatch(f"{source} ({family.name}): {family.file_name(own_name)} is missing")
        return shapes[own_name]

    depths = _depths(shapes)
    if "head.fc.weight" not in shapes:
        wanted = family.file_name("head.fc.weight")
        raise CheckpointMismatch(f"{source} ({family.name}): {wanted} is missing: it has no classification head")
    stem, first = _stem(shapes), shape_of("stem.0.weight")
    config = ConvNeXtConfig(
        depths=depths,
        widths=tuple(shape_of(f"stages.{stage}.blocks.0.conv_dw.weight")[0] for stage in range(len(depths))),
        num_classes=shape_of("head.fc.weight")[0],
        in_channels=first[1],
        stem=stem,
        patch_size=first[-1] if stem == "patch" else 4,
        stem_width=None if stem == "patch" else first[0],
        layer_scale=any(name.endswith(".gamma") for name in shapes),
        grn=any(".mlp.grn." in name for name in shapes),
        head_norm_eps=family.head_norm_eps,
        norm_before_pool=family.norm_before_pool,
    )
    if config.depths == (3, 4, 30, 3) and config.widths[0] == 384:
        return replace(config, norm_eps=1e-5, head_norm_eps=1e-5)
    return config


def _depths(shapes: Mapping[str, Shape]) -> Shape:
    depths: dict[int, int] = {}
    for name in shapes:
        if found := re.match(r"stages\.(\d+)\.blocks\.(\d+)\.", name):
            stage, block = int(found.group(1)), int(found.group(2))
            depths[stage] = max(depths.get(stage, 0), block + 1)
    numbered = (*depths, *depths.values())
    if not numbered or max(numbered) > len(shapes):
        raise CheckpointMismatch(f"the blocks' numbers {depths} do not fit a file of {len(shapes)} tensors")
    return tuple(depths.get(stage, 1) for stage in range(max(depths) + 1))


def _stem(shapes: Mapping[str, Shape]) -> Stem:
    if len(shapes.get("stem.1.weight", ())) == 4:
        return "overlap"
    return "overlap_act" if len(shapes.get("stem.2.weight", ())) == 4 else "patch"


def own_tensors(
    tensors: Mapping[str, Tensor], family: Family, config: ConvNeXtConfig, source: str
) -> dict[str, Tensor]:
    """The complete float32 state dict of ``ConvNeXt(config)``, each tensor copied from the file's.

    Raises ``CheckpointMismatch`` naming every kind of tensor that is missing, left over or misshapen, and
    ``CheckpointError`` where one holds NaN, infinity or no floating-point numbers.
    """
    with torch.device("meta"):
        expected = {name: tuple(tensor.shape) for name, tensor in ConvNeXt(config).state_dict().items()}
    found: dict[str, Tensor] = {}
    left_over: list[str] = []
    for name, tensor in tensors.items():
        own = family.own_name(name)
        if own in expected and own not in found:
            found[own] = tensor
        else:
            left_over.append(f"{name} {tuple(tensor.shape)}")
    missing = [f"{family.file_name(own)} {shape}" for own, shape in expected.items() if own not in found]
    misshapen = [
        f"{family.file_name(own)} expected {expected[own]}, found {tuple(tensor.shape)}"
        for own, tensor in found.items()
        if _squeezed(tensor.shape) != _squeezed(expected[own])
    ]
    problems = {"missing": missing, "left over": left_over, "misshapen": misshapen}
    if any(problems.values()):
        listing = "; ".join(f"{kind}: {_listed(names)}" for kind, names in problems.items() if names)
        raise CheckpointMismatch(f"{source} ({family.name}) does not make the network that it should. {listing}")
    return {own: _float32(found[own], family.file_name(own), source).reshape(shape) for own, shape in expected.items()}


def _squeezed(shape: Iterable[int]) -> list[int]:
    """A shape without its ones: 1×1 convolutions are linear maps, and (1, 1, 1, C) or (C, 1, 1) are vectors."""
    return [size for size in shape if size != 1]


def _listed(names: list[str], most: int = 4) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _float32(tensor: Tensor, name: str, source: str) -> Tensor:
    if not tensor.is_floating_point():
        raise CheckpointError(f"{source}: {name} holds {tensor.dtype}, not floating-point numbers")
    tensor = tensor.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
    if not torch.isfinite(tensor).all():
        raise CheckpointError(f"{source}: {name} holds NaN or infinite numbers")
    return tensor
