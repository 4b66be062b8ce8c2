from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from model.checkpoints.families import FAMILIES, Family, canonical_state_dict, detect_family, infer_config
from model.convnext import ConvNeXt, ConvNeXtConfig
from model.errors import CheckpointError, CheckpointMismatch

CONFIGS = {
    "V1": ConvNeXtConfig((1, 2, 1, 1), (8, 16, 24, 32), 5),
    "V2": ConvNeXtConfig((1, 2, 1, 1), (8, 16, 24, 32), 5, layer_scale=False, grn=True),
}
KEYS = {  # the keys of the tensors in CANONICAL_NAMES
    "torchvision": ("features.5.1.block.3.weight", "features.4.0.bias", "classifier.2.weight"),
    "facebookresearch": ("stages.2.1.pwconv1.weight", "downsample_layers.2.0.bias", "head.weight"),
    "huggingface": (
        "convnext.encoder.stages.2.layers.1.pwconv1.weight",
        "convnext.encoder.stages.2.downsampling_layer.0.bias",
        "classifier.weight",
    ),
}
CANONICAL_NAMES = ("stages.2.blocks.1.mlp.fc1.weight", "stages.2.downsample.0.bias", "head.fc.weight")
WITH_V2 = [
    (family, version) for family in FAMILIES for version in CONFIGS if (family.name, version) != ("torchvision", "V2")
]


def tensors_of(family: Family, config: ConvNeXtConfig = CONFIGS["V1"]) -> dict[str, Tensor]:
    return {family.key(name): tensor for name, tensor in ConvNeXt(config).state_dict().items()}


@pytest.mark.parametrize(("name", "keys"), KEYS.items())
def test_translates_the_keys_of_every_family(name: str, keys: tuple[str, ...]) -> None:
    family = next(family for family in FAMILIES if family.name == name)
    assert tuple(map(family.canonical_name, keys)) == CANONICAL_NAMES
    assert tuple(map(family.key, CANONICAL_NAMES)) == keys


@pytest.mark.parametrize(("family", "version"), WITH_V2, ids=lambda value: getattr(value, "anchor", value)[:20])
def test_restores_config_and_names_from_the_keys_of_every_family(family: Family, version: str) -> None:
    config = CONFIGS[version]
    tensors = tensors_of(family, config)
    assert len(tensors) == len(ConvNeXt(config).state_dict())
    assert detect_family(tensors, "a test") is family
    found = infer_config(tensors, family, "a test")
    assert (found.depths, found.widths, found.num_classes) == (config.depths, config.widths, 5)
    assert (found.layer_scale, found.grn) == (config.layer_scale, config.grn)
    assert list(canonical_state_dict(tensors, family, found, "a test")) == list(ConvNeXt(config).state_dict())


@pytest.mark.parametrize("missing", ["stem.0.weight", "stages.1.blocks.0.conv_dw.weight", "head.fc.weight"])
def test_names_a_missing_key_as_the_family_does(missing: str) -> None:
    family = FAMILIES[1]
    tensors = tensors_of(family)
    del tensors[family.key(missing)]
    with pytest.raises(CheckpointMismatch, match=rf"\(facebookresearch\): missing key {family.key(missing)}"):
        infer_config(tensors, family, "a test")


def test_rejects_two_keys_for_one_tensor() -> None:
    family = next(family for family in FAMILIES if family.norm_before_pool)
    tensors: Mapping[str, Tensor] = tensors_of(family) | {"head.norm.weight": torch.ones(32)}
    config = infer_config(tensors, family, "a test")
    with pytest.raises(CheckpointMismatch, match=r"unexpected key: head\.norm\.weight \(32,\)$"):
        canonical_state_dict(tensors, family, config, "a test")


@pytest.mark.parametrize(
    "keys",
    [
        ["features.0.0.weight", "features.1.0.block.0.0.weight"],  # torchvision's EfficientNet
        ["stem.conv.weight", "stages.0.blocks.0.attn.qkv.weight"],
        ["vit.embeddings.patch_embeddings.projection.weight"],
        [],
    ],
)
def test_rejects_the_keys_of_other_architectures(keys: list[str]) -> None:
    with pytest.raises(CheckpointError, match="torchvision, facebookresearch, huggingface, timm"):
        detect_family(keys, "a test")
