import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from model import Transform, load_model
from model.checkpoints.native import read_card, save_checkpoint
from model.convnext import ConvNeXt, ConvNeXtConfig
from model.errors import CheckpointError

CONFIG = ConvNeXtConfig((1, 1), (8, 16), 3, layer_scale=False, grn=True, norm_eps=1e-5, drop_path_rate=0.1)
TRANSFORM = Transform(72, 64, "bicubic", (0.5, 0.4, 0.3), (0.2, 0.2, 0.1), detail_size=64)
LABELS = ("cat", "dog", "owl, barn")


@pytest.fixture
def network(randomise):
    return randomise(ConvNeXt(CONFIG))


def save(path, network, **changes):
    arguments = {"labels": LABELS, "metadata": {"top1": "61.25", "recipe": "training/"}} | changes
    labels, metadata = arguments["labels"], arguments["metadata"]
    save_checkpoint(
        path, network.state_dict(), CONFIG, TRANSFORM, labels, name="mine", licence="CC0-1.0", metadata=metadata
    )


def test_everything_comes_back(tmp_path, network, largest_difference):
    save(tmp_path / "a.safetensors", network)
    model = load_model(tmp_path / "a.safetensors")
    assert (model.name, model.licence, model.labels) == ("mine", "CC0-1.0", LABELS)
    assert (model.config, model.transform, model.top1) == (CONFIG, TRANSFORM, 61.25)
    assert (model.family, model.notes) == ("convnext-serve", ())
    assert largest_difference(model.network, network) == 0


def test_float16_stays_so_in_the_file_and_is_served_as_float32(tmp_path, network, largest_difference):
    network.half()
    save(tmp_path / "a.safetensors", network)
    with safe_open(tmp_path / "a.safetensors", "pt") as file:
        assert {file.get_tensor(name).dtype for name in network.state_dict()} == {torch.float16}
        assert file.metadata()["recipe"] == "training/"
    model = load_model(tmp_path / "a.safetensors")
    assert {parameter.dtype for parameter in model.network.parameters()} == {torch.float32}
    assert largest_difference(model.network, network.float()) == 0


def test_a_failed_save_leaves_the_old_file_and_nothing_else(tmp_path, network):
    save(tmp_path / "a.safetensors", network)
    before = (tmp_path / "a.safetensors").read_bytes()
    network.head.fc.weight = network.head.norm.weight  # one storage under two names, which safetensors refuses
    with pytest.raises(RuntimeError):
        save(tmp_path / "a.safetensors", network)
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]
    assert (tmp_path / "a.safetensors").read_bytes() == before


def test_save_refuses_what_would_not_load(tmp_path, network):
    with pytest.raises(CheckpointError, match="2 labels do not name the 3 classes"):
        save(tmp_path / "a.safetensors", network, labels=LABELS[:2])
    with pytest.raises(CheckpointError, match="may not redefine name"):
        save(tmp_path / "a.safetensors", network, metadata={"name": "other"})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"convnext_serve": "2"}, "format version '2'; this release reads '1'"),
        ({"labels": None}, "lacks labels"),
        ({"config": "{"}, "malformed"),
        ({"config": json.dumps({"depths": [1], "widths": [8], "colour": "red"})}, "colour"),
        ({"transform": json.dumps({"resize_size": 10})}, "crop_size 224"),
        ({"labels": "3"}, "malformed"),
    ],
)
def test_a_header_that_is_not_understood(tmp_path, network, changes, message):
    save(tmp_path / "a.safetensors", network)
    with safe_open(tmp_path / "a.safetensors", "pt") as file:
        header = file.metadata() | changes
    header = {key: value for key, value in header.items() if value is not None}
    save_file(network.state_dict(), tmp_path / "b.safetensors", header)
    with pytest.raises(CheckpointError, match=message):
        load_model(tmp_path / "b.safetensors")


def test_read_card_names_its_source():
    with pytest.raises(CheckpointError, match="some file lacks name"):
        read_card({"convnext_serve": "1"}, "some file")
