import json
from pathlib import Path

import pytest
import torch
import torchvision

from model import Transform, load_model
from model.checkpoints.hf_folder import locate, read_card
from model.errors import CheckpointError
from tests.model.conftest import randomize


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "mine").mkdir()
    return tmp_path / "mine"


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "best.pth", "best.pt"])
def test_finds_the_only_weights_file(folder: Path, name: str) -> None:
    for other in ("config.json", "README.md", name):
        (folder / other).touch()
    assert locate(folder) == (folder / name, folder)


def test_prefers_the_default_names_of_the_libraries(folder: Path) -> None:
    for name in ("optimizer.pt", "training_args.bin", "pytorch_model.bin", "model.safetensors"):
        (folder / name).touch()
    assert locate(folder)[0].name == "model.safetensors"


@pytest.mark.parametrize(
    ("files", "value"),
    [
        ([], r"\*\.safetensors"),
        (["one.pth", "two.pth"], r"one\.pth, two\.pth"),
        (["one.pth", "model.safetensors.index.json"], "max_shard_size"),
    ],
)
def test_rejects_a_folder_without_exactly_one_weights_file(folder: Path, files: list[str], value: str) -> None:
    for name in files:
        (folder / name).touch()
    with pytest.raises(CheckpointError, match=value):
        locate(folder)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "mine.pth", "model.fp16.safetensors"])
@pytest.mark.parametrize("description", ["config.json", "preprocessor_config.json", "processor_config.json"])
def test_a_file_is_described_by_the_json_files_beside_it(folder: Path, name: str, description: str) -> None:
    (folder / name).touch()
    assert locate(folder / name) == (folder / name, None)
    (folder / description).touch()
    assert locate(folder / name) == (folder / name, folder)


def test_names_incomplete_weights(folder: Path) -> None:
    shard = folder / "model-00001-of-00002.safetensors"
    with pytest.raises(CheckpointError, match="part of the weights"):
        locate(shard)
    (folder / "adapter_config.json").touch()
    for path in (folder, folder / "model.safetensors"):
        with pytest.raises(CheckpointError, match="adapter"):
            locate(path)


def test_notes_a_missing_config(folder: Path) -> None:
    card = read_card(folder)
    assert card.name == "mine"
    assert "config.json" in card.notes[0]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b"[" * 100_000], ids=range(5))
def test_rejects_a_config_that_is_not_a_json_object(folder: Path, content: bytes) -> None:
    (folder / "config.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        read_card(folder)


@pytest.mark.parametrize(
    ("config", "error"),
    [
        ({"pretrained_cfg": 3}, "AttributeError"),
        ({"architecture": "convnext_tiny", "mean": [1]}, "ValueError"),
        ({"architecture": "convnext_tiny", "crop_pct": 2}, "ValueError"),
        ({"architecture": "convnext_tiny", "crop_pct": 1e-308}, "OverflowError"),
        ({"architecture": "test_convnext"}, "GELU"),
        ({"architecture": "convnext_tiny", "license": ["mit"]}, "licence"),
        ({"architecture": "convnext_tiny", "label_names": ["a", "\ud800"]}, "class 1"),
        ({"architecture": "convnext_tiny", "label_names": ["a"], "label_descriptions": {"a": "\ud800"}}, "class 0"),
    ],
)
def test_rejects_a_config_with_invalid_content(folder: Path, config: dict[str, object], error: str) -> None:
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=error):
        read_card(folder)


def test_treats_null_in_a_timm_config_as_absent(folder: Path) -> None:
    keys = ("input_size", "crop_pct", "crop_mode", "interpolation", "mean", "std", "label_names", "license")
    config = {"architecture": "convnext_tiny", "model_args": None, "num_classes": None}
    (folder / "config.json").write_text(json.dumps(config | {"pretrained_cfg": {}}))
    absent = read_card(folder)
    (folder / "config.json").write_text(json.dumps(config | {"pretrained_cfg": dict.fromkeys(keys)}))
    assert read_card(folder) == absent
    assert absent.transform is None


def test_a_handwritten_config_works_for_any_family(folder: Path) -> None:
    with torch.device("meta"):
        network = torchvision.models.convnext_tiny(num_classes=3)
    torch.save(randomize(network).state_dict(), folder / "mine.pth")
    data = {"input_size": [3, 96, 96], "crop_pct": 0.8, "interpolation": "bilinear", "license": "mit"}
    (folder / "config.json").write_text(json.dumps({"pretrained_cfg": data, "label_names": ["cat", "dog", "owl"]}))
    model = load_model(folder)
    assert (model.family, model.labels, model.licence) == ("torchvision", ("cat", "dog", "owl"), "mit")
    assert (model.transform, model.notes) == (Transform(120, 96, "bilinear"), ())


@pytest.mark.parametrize("beside", [{}, {"pretrained_cfg": {}}, {"model_type": "timm_wrapper", "num_classes": 3}])
def test_reads_labels_by_index_in_a_config_of_timm(folder: Path, beside: dict[str, object]) -> None:
    content = json.dumps({"id2label": {"2": "owl", "0": "cat", "1": "dog"}} | beside)
    (folder / "config.json").write_text(content, encoding="utf-8-sig")
    assert read_card(folder).labels == ("cat", "dog", "owl")


def test_a_config_without_preprocessing_leaves_the_default_of_the_family(folder: Path) -> None:
    with torch.device("meta"):
        network = torchvision.models.convnext_tiny(num_classes=3)
    torch.save(randomize(network).state_dict(), folder / "mine.pth")
    expected = load_model(folder / "mine.pth").transform
    (folder / "config.json").write_text(json.dumps({"label_names": ["cat", "dog", "owl"]}))
    model = load_model(folder)
    assert (model.transform, model.labels) == (expected, ("cat", "dog", "owl"))
    assert any("preprocessing" in note for note in model.notes)
