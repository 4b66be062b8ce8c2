"""What a card says refines what the tensors tell; what it leaves open stays as they tell it."""

import json

import pytest
from safetensors.torch import save_file

from model import load_model
from model.checkpoints.model_card import Card
from model.convnext import ConvNeXt, ConvNeXtConfig
from model.errors import CheckpointMismatch

CONFIG = ConvNeXtConfig((1,), (8,), num_classes=2)


@pytest.fixture
def load(tmp_path):
    def write_and_load(config):
        save_file(ConvNeXt(CONFIG).state_dict(), tmp_path / "model.safetensors")
        (tmp_path / "config.json").write_text(json.dumps(config))
        return load_model(tmp_path)

    return write_and_load


def test_a_card_of_a_name_alone_leaves_all_open():
    card = Card("mine")
    assert {getattr(card, field) for field in card.__dataclass_fields__} == {"mine", None, ()}


def test_the_norms_eps(load):
    model = load({"architecture": "convnext", "model_args": {"norm_eps": 1e-4}})
    assert (model.config.norm_eps, model.config.head_norm_eps) == (1e-4, 1e-4)
    assert model.network.stem[1].eps == model.network.head.norm.eps == 1e-4
    assert load({"architecture": "convnext"}).config == CONFIG


def test_another_number_of_classes_than_the_heads(load):
    with pytest.raises(CheckpointMismatch, match="says 3 classes, the head 2"):
        load({"architecture": "convnext", "num_classes": 3})
