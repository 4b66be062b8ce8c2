import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from model import Transform, load_model
from model.checkpoints.native import save_checkpoint
from model.convnext import ConvNeXt, ConvNeXtConfig
from model.errors import CheckpointError
from tests.model.conftest import largest_difference, randomize

CONFIG = ConvNeXtConfig((1, 1), (8, 16), 3, layer_scale=False, grn=True, norm_eps=1e-5, drop_path_rate=0.1)
TRANSFORM = Transform(72, 64, "bicubic", (0.5, 0.4, 0.3), (0.2, 0.2, 0.1), detail_size=64)
LABELS = ("cat", "dog", "owl, barn")
METADATA = {"top1": "61.25", "recipe": "training/"}


@pytest.fixture
def network() -> ConvNeXt:
    return randomize(ConvNeXt(CONFIG))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.safetensors"


def save(
    path: Path, network: ConvNeXt, labels: tuple[str, ...] = LABELS, metadata: Mapping[str, str] = METADATA
) -> None:
    save_checkpoint(
        path, network.state_dict(), CONFIG, TRANSFORM, labels, name="mine", licence="CC0-1.0", metadata=metadata
    )


def test_loads_everything_that_was_saved(path: Path, network: ConvNeXt) -> None:
    save(path, network)
    model = load_model(path)
    assert (model.name, model.licence, model.labels) == ("mine", "CC0-1.0", LABELS)
    assert (model.config, model.transform, model.top1) == (CONFIG, TRANSFORM, 61.25)
    assert (model.family, model.notes) == ("convnext-serve", ())
    assert largest_difference(model.network, network) == 0


def test_the_header_describes_the_file_whatever_is_beside_it(path: Path, network: ConvNeXt) -> None:
    save(path, network)
    path.with_name("config.json").write_text('{"model_type": "bert"}')
    assert load_model(path).labels == LABELS


def test_saves_float16_and_loads_it_as_float32(path: Path, network: ConvNeXt) -> None:
    network.half()
    save(path, network)
    with safe_open(path, "pt") as file:
        assert {file.get_tensor(name).dtype for name in network.state_dict()} == {torch.float16}
        assert file.metadata()["recipe"] == "training/"
    model = load_model(path)
    assert {parameter.dtype for parameter in model.network.parameters()} == {torch.float32}
    assert largest_difference(model.network, network.float()) == 0


def test_a_failed_save_leaves_only_the_old_file(path: Path, network: ConvNeXt) -> None:
    save(path, network)
    before = path.read_bytes()
    network.head.fc.weight = network.head.norm.weight  # safetensors rejects shared storage
    with pytest.raises(RuntimeError):
        save(path, network)
    assert list(path.parent.iterdir()) == [path]
    assert path.read_bytes() == before


def test_rejects_saving_what_could_not_be_loaded(path: Path, network: ConvNeXt) -> None:
    with pytest.raises(CheckpointError, match=r"2 labels.* 3"):
        save(path, network, labels=LABELS[:2])
    with pytest.raises(CheckpointError, match="class 1"):
        save(path, network, labels=("cat", "\ud800", "owl"))
    with pytest.raises(CheckpointError, match="name"):
        save(path, network, metadata={"name": "other"})


@pytest.mark.parametrize(
    ("changes", "value"),
    [
        ({"convnext_serve": "2"}, "'2'.* '1'"),
        ({"labels": None}, r"a\.safetensors: missing labels"),
        ({"config": "{"}, "malformed"),
        ({"config": json.dumps({"depths": [1], "widths": [8], "colour": "red"})}, "colour"),
        ({"transform": json.dumps({"resize_size": 10})}, "crop_size 224"),
        ({"labels": "3"}, "int"),
        ({"labels": json.dumps(["cat", "dog", "\ud800"])}, "class 2"),
    ],
)
def test_rejects_a_malformed_header(path: Path, network: ConvNeXt, changes: dict[str, str | None], value: str) -> None:
    save(path, network)
    with safe_open(path, "pt") as file:
        header = file.metadata() | changes
    save_file(network.state_dict(), path, {key: text for key, text in header.items() if text is not None})
    with pytest.raises(CheckpointError, match=value):
        load_model(path)
