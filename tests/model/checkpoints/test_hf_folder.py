import json

import pytest
import torch
import torchvision

from model import Transform, load_model
from model.checkpoints.hf_folder import locate, read_card
from model.errors import CheckpointError


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "mine").mkdir()
    return tmp_path / "mine"


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "best.pth", "best.pt"])
def test_the_only_weights_file_is_found(folder, name):
    for other in ("config.json", "README.md", name):
        (folder / other).touch()
    assert locate(folder) == (folder / name, folder)


def test_the_libraries_own_names_come_first(folder):
    for name in ("optimizer.pt", "training_args.bin", "pytorch_model.bin", "model.safetensors"):
        (folder / name).touch()
    assert locate(folder)[0].name == "model.safetensors"


def test_none_several_and_shards(folder):
    with pytest.raises(CheckpointError, match=r"it has none of \*\.safetensors"):
        locate(folder)
    (folder / "one.pth").touch()
    (folder / "two.pth").touch()
    with pytest.raises(CheckpointError, match=r"it has one\.pth, two\.pth"):
        locate(folder)
    (folder / "model.safetensors.index.json").touch()
    with pytest.raises(CheckpointError, match="in shards"):
        locate(folder)


def test_a_file_belongs_to_its_folder_only_under_a_librarys_name(folder):
    for name in ("mine.pth", "pytorch_model.bin"):
        (folder / name).touch()
    assert locate(folder / "pytorch_model.bin") == (folder / "pytorch_model.bin", None)
    (folder / "config.json").touch()
    assert locate(folder / "pytorch_model.bin") == (folder / "pytorch_model.bin", folder)
    assert locate(folder / "mine.pth") == (folder / "mine.pth", None)


def test_a_folder_without_config_says_so(folder):
    card = read_card(folder)
    assert card.name == "mine"
    assert "no config.json" in card.notes[0]


@pytest.mark.parametrize("content", ["", "{", "[]", "\udcff"])
def test_a_config_that_is_no_json_object(folder, content):
    (folder / "config.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(CheckpointError, match=r"config\.json"):
        read_card(folder)


@pytest.mark.parametrize(
    "content",
    ['{"pretrained_cfg": 3}', '{"architecture": "convnext_tiny", "mean": [1]}', '{"architecture": "a", "crop_pct": 2}'],
)
def test_a_config_of_unexpected_content(folder, content):
    (folder / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match="unexpected content"):
        read_card(folder)


def test_timms_toys_have_another_activation(folder):
    (folder / "config.json").write_text('{"architecture": "test_convnext"}')
    with pytest.raises(CheckpointError, match="another activation than GELU"):
        read_card(folder)


def test_a_config_written_by_hand_serves_any_family(folder, randomise):
    with torch.device("meta"):
        network = torchvision.models.convnext_tiny(num_classes=3)
    torch.save(randomise(network).state_dict(), folder / "mine.pth")
    data = {"input_size": [3, 96, 96], "crop_pct": 0.8, "interpolation": "bilinear", "license": "mit"}
    (folder / "config.json").write_text(json.dumps({"pretrained_cfg": data, "label_names": ["cat", "dog", "owl"]}))
    model = load_model(folder)
    assert (model.family, model.labels, model.licence) == ("torchvision", ("cat", "dog", "owl"), "mit")
    assert (model.transform, model.notes) == (Transform(120, 96, "bilinear"), ())
