"""A model card completes what is inferred from the tensors."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from safetensors.torch import save_file

from model import LoadedModel, load_model
from model.checkpoints.model_card import ModelCard
from model.convnext import ConvNeXt, ConvNeXtConfig
from model.errors import CheckpointError, CheckpointMismatch

CONFIG = ConvNeXtConfig((1,), (8,), num_classes=2)
Load = Callable[[Mapping[str, object]], LoadedModel]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    def write_and_load(config: Mapping[str, object]) -> LoadedModel:
        save_file(ConvNeXt(CONFIG).state_dict(), tmp_path / "model.safetensors")
        (tmp_path / "config.json").write_text(json.dumps({"architecture": "convnext"} | dict(config)))
        return load_model(tmp_path)

    return write_and_load


@pytest.mark.parametrize(("name", "licence"), [("\udcff", None), ("mine", "\ud800"), ("mine", ["mit"])])
def test_rejects_a_name_or_licence_that_is_not_text(name: str, licence: str) -> None:
    with pytest.raises(CheckpointError):
        ModelCard(name, licence)


def test_config_json_sets_the_eps_of_the_norms(load: Load) -> None:
    model = load({"model_args": {"norm_eps": 1e-4}})
    assert (model.config.norm_eps, model.config.head_norm_eps) == (1e-4, 1e-4)
    assert model.network.stem[1].eps == model.network.head.norm.eps == 1e-4
    assert load({}).config == CONFIG


def test_rejects_a_different_number_of_classes(load: Load) -> None:
    with pytest.raises(CheckpointMismatch, match=r"3 classes.* 2"):
        load({"num_classes": 3})
