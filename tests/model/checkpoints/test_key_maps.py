import pytest
import torch

from model.checkpoints.key_maps import FAMILIES, infer_config, own_tensors, recognise
from model.convnext import ConvNeXt, ConvNeXtConfig
from model.errors import CheckpointError, CheckpointMismatch

CONFIGS = {
    "V1": ConvNeXtConfig((1, 2, 1, 1), (8, 16, 24, 32), 5),
    "V2": ConvNeXtConfig((1, 2, 1, 1), (8, 16, 24, 32), 5, layer_scale=False, grn=True),
}
EXAMPLES = {  # one row of the design's table each: what every family calls the same tensor of stage 2, block 1
    "torchvision": ("features.5.1.block.3.weight", "features.4.0.bias", "classifier.2.weight"),
    "facebookresearch": ("stages.2.1.pwconv1.weight", "downsample_layers.2.0.bias", "head.weight"),
    "huggingface": (
        "convnext.encoder.stages.2.layers.1.pwconv1.weight",
        "convnext.encoder.stages.2.downsampling_layer.0.bias",
        "classifier.weight",
    ),
}
OWN = ("stages.2.blocks.1.mlp.fc1.weight", "stages.2.downsample.0.bias", "head.fc.weight")


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_same_tensor_under_every_familys_name(name):
    family = next(family for family in FAMILIES if family.name == name)
    assert tuple(family.own_name(theirs) for theirs in EXAMPLES[name]) == OWN
    assert tuple(family.file_name(own) for own in OWN) == EXAMPLES[name]


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: f"{family.name} {family.anchor[:12]}")
def test_every_name_goes_there_and_back(family, config):
    if family.name == "torchvision" and config.grn:
        pytest.skip("torchvision has no V2")
    tensors = {family.file_name(own): tensor for own, tensor in ConvNeXt(config).state_dict().items()}
    assert len(tensors) == len(ConvNeXt(config).state_dict())
    assert recognise(tensors, "a test") is family
    found = infer_config(tensors, family, "a test")
    assert (found.depths, found.widths, found.num_classes) == (config.depths, config.widths, 5)
    assert (found.layer_scale, found.grn) == (config.layer_scale, config.grn)
    assert list(own_tensors(tensors, family, found, "a test")) == list(ConvNeXt(config).state_dict())


@pytest.mark.parametrize("missing", ["stem.0.weight", "stages.1.blocks.0.conv_dw.weight", "head.fc.weight"])
def test_without_a_tensor_that_decides_the_familys_name_of_it_is_given(missing):
    family = FAMILIES[1]
    tensors = {family.file_name(own): tensor for own, tensor in ConvNeXt(CONFIGS["V1"]).state_dict().items()}
    del tensors[family.file_name(missing)]
    with pytest.raises(CheckpointMismatch, match=rf"\(facebookresearch\): {family.file_name(missing)} is missing"):
        infer_config(tensors, family, "a test")


def test_two_names_for_one_tensor_are_one_too_many():
    family = next(family for family in FAMILIES if family.norm_before_pool)
    tensors = {family.file_name(own): tensor for own, tensor in ConvNeXt(CONFIGS["V1"]).state_dict().items()}
    tensors["head.norm.weight"] = torch.ones(32)
    config = infer_config(tensors, family, "a test")
    with pytest.raises(CheckpointMismatch, match=r"left over: head\.norm\.weight \(32,\)$"):
        own_tensors(tensors, family, config, "a test")


@pytest.mark.parametrize(
    "names",
    [
        ["features.0.0.weight", "features.1.0.block.0.0.weight"],  # torchvision's EfficientNet
        ["stem.conv.weight", "stages.0.blocks.0.attn.qkv.weight"],
        ["vit.embeddings.patch_embeddings.projection.weight"],
        [],
    ],
)
def test_relatives_are_not_taken_for_a_convnext(names):
    with pytest.raises(CheckpointError, match="no ConvNeXt of a known family"):
        recognise(names, "a test")
