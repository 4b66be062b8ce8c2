"""Checkpoints as people save them: the network is found wherever it is, and its logits are those of the library."""

import argparse
import collections
import datetime
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from timm.models.convnext import ConvNeXt as TimmConvNeXt
from torch import nn
from torchvision.models.convnext import CNBlockConfig
from torchvision.models.convnext import ConvNeXt as TorchvisionConvNeXt
from transformers import ConvNextConfig, ConvNextForImageClassification

from model import load_model
from model.errors import CheckpointError, CheckpointMismatch
from tests.model.conftest import largest_difference, randomize

Tensors = dict[str, Any]  # Any: tensors, and what is saved beside them
Wrap = Callable[[Tensors], Tensors]


def timm_network(**options: Any) -> nn.Module:  # Any: arguments of different types
    sizes: dict[str, Any] = {"depths": (1, 1, 1, 1), "dims": (8, 12, 16, 24), "num_classes": 5}  # Any: as above
    return TimmConvNeXt(**sizes | options)


def torchvision_network() -> nn.Module:
    settings = [CNBlockConfig(8, 12, 1), CNBlockConfig(12, 16, 1), CNBlockConfig(16, 24, 1), CNBlockConfig(24, None, 1)]
    network: nn.Module = TorchvisionConvNeXt(settings, num_classes=5)
    return network


def transformers_network() -> nn.Module:
    config = ConvNextConfig(depths=[1, 1, 1, 1], hidden_sizes=[8, 12, 16, 24], id2label=dict.fromkeys(range(5), "x"))
    return ConvNextForImageClassification(config)


def mmpretrain(tensors: Tensors) -> Tensors:
    """The names of mmpretrain's ImageClassifier, made of timm's."""
    rules = {
        "stem.": "backbone.downsample_layers.0.",
        ".blocks": "",
        ".conv_dw.": ".depthwise_conv.",
        ".mlp.fc1.": ".pointwise_conv1.",
        ".mlp.fc2.": ".pointwise_conv2.",
        "head.norm.": "backbone.norm3.",
    }
    found = {}
    for key, tensor in tensors.items():
        name = key
        for old, new in rules.items():
            name = name.replace(old, new)
        if ".downsample." in key:
            _, stage, _, rest = key.split(".", 3)
            name = f"backbone.downsample_layers.{stage}.{rest}"
        found[f"backbone.{name}" if name.startswith("stages.") else name] = tensor
    return found


def prefixed(prefix: str) -> Wrap:
    return lambda tensors: {f"{prefix}{key}": tensor for key, tensor in tensors.items()}


def zeros(tensors: Tensors) -> Tensors:
    return {key: torch.zeros_like(tensor) for key, tensor in tensors.items()}


WRAPPERS: dict[str, Wrap] = {
    "model": lambda t: {"model": t},
    "model_state_dict": lambda t: {"epoch": 3, "model_state_dict": t, "optimizer_state_dict": {"state": {}}},
    "net": lambda t: {"net": t},
    "weights in two levels": lambda t: {"checkpoint": {"student": t}},
    "DataParallel and compile": lambda t: prefixed("_orig_mod.module.")(t),
    "Lightning": lambda t: {"state_dict": prefixed("model.")(t), "pytorch-lightning_version": "2.6"},
    "Lightning with a loss": lambda t: {"state_dict": {**prefixed("net.")(t), "criterion.weight": torch.ones(5)}},
    "backbone": prefixed("backbone."),
    "encoder": prefixed("module.encoder."),
    "student and teacher": lambda t: {"student": prefixed("backbone.")(t), "teacher": prefixed("backbone.")(zeros(t))},
    "an average": lambda t: {"model": t, "ema": zeros(t)},
    "an average beside it": lambda t: t | prefixed("ema_model.module.")(zeros(t)),
    "only an average": lambda t: {"model_ema": {"n_averaged": torch.tensor(7), **prefixed("module.")(t)}},
    "timm's average": lambda t: {"state_dict": zeros(t), "state_dict_ema": t},
    "mmengine's average": lambda t: {
        "state_dict": t,
        "ema_state_dict": {"steps": torch.tensor(7), **prefixed("module.")(zeros(t))},
    },
    "Lightning's average": lambda t: {"state_dict": t, "current_model_state": zeros(t)},
    "normalization buffers": lambda t: t | {"normalize.mean": torch.zeros(3), "normalize.std": torch.ones(3)},
    "mmpretrain": lambda t: {"state_dict": mmpretrain(t), "meta": {}},
    "arrays": lambda t: {"state_dict": {key: tensor.numpy() for key, tensor in t.items()}},
    "float64": lambda t: {key: tensor.double() for key, tensor in t.items()},
    "data beside the weights": lambda t: {
        "model": t,
        "best": np.float64(0.5),
        "history": np.arange(3.0),
        "when": datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC),
        "counts": collections.defaultdict(list, a=[1]),
        "args": argparse.Namespace(output=Path("x")),
    },
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_finds_the_network(tmp_path: Path, wrapper: str) -> None:
    reference = randomize(timm_network())
    torch.save(WRAPPERS[wrapper](reference.state_dict()), tmp_path / "mine.pth")
    assert largest_difference(load_model(tmp_path / "mine.pth").network, reference) < 1e-4


@pytest.mark.parametrize("build", [torchvision_network, transformers_network])
def test_finds_networks_of_other_libraries(tmp_path: Path, build: Callable[[], nn.Module]) -> None:
    reference = randomize(build())
    wrapped = {"state": {"state_dict": prefixed("module.student.")(reference.state_dict())}}
    torch.save(wrapped, tmp_path / "mine.pth")
    assert largest_difference(load_model(tmp_path / "mine.pth").network, reference) < 1e-4


def test_a_legacy_file_may_have_data_beside_the_weights(tmp_path: Path) -> None:
    reference = randomize(timm_network())
    content = {"model": reference.state_dict(), "best": np.float32(0.5)}
    torch.save(content, tmp_path / "mine.pth", _use_new_zipfile_serialization=False)
    assert largest_difference(load_model(tmp_path / "mine.pth").network, reference) < 1e-4


@pytest.mark.parametrize("ema", ["on", "off"])
def test_a_setting_selects_averaged_weights(tmp_path: Path, ema: Any) -> None:  # Any: a literal
    reference = randomize(timm_network())
    first, second = reference.state_dict(), zeros(reference.state_dict())
    content = {"state_dict": second, "state_dict_ema": first} if ema == "on" else {"model": first, "ema": second}
    torch.save(content, tmp_path / "mine.pth")
    assert largest_difference(load_model(tmp_path / "mine.pth", ema=ema).network, reference) < 1e-4


def test_reports_what_was_ignored(tmp_path: Path) -> None:
    tensors = timm_network().state_dict()
    torch.save({"model": tensors, "criterion": {"class_weights": torch.ones(5)}}, tmp_path / "mine.pth")
    assert any("criterion" in note for note in load_model(tmp_path / "mine.pth").notes)


def test_rejects_averaged_weights_that_are_not_there(tmp_path: Path) -> None:
    torch.save(timm_network().state_dict(), tmp_path / "mine.pth")
    with pytest.raises(CheckpointError, match="averaged"):
        load_model(tmp_path / "mine.pth", ema="on")


def test_rejects_an_ensemble(tmp_path: Path) -> None:
    tensors = timm_network().state_dict()
    torch.save({"first": tensors, "second": zeros(tensors)}, tmp_path / "mine.pth")
    with pytest.raises(CheckpointError, match=r"first.*second"):
        load_model(tmp_path / "mine.pth")


@pytest.mark.parametrize(
    "extra",
    [{"fc.weight": torch.zeros(2, 5)}, {"head.extra": torch.zeros(2, 2)}, {"adapter.weight": torch.zeros(9, 9)}],
)
def test_rejects_layers_that_belong_to_the_network(tmp_path: Path, extra: Tensors) -> None:
    torch.save(timm_network().state_dict() | extra, tmp_path / "mine.pth")
    with pytest.raises(CheckpointMismatch, match=next(iter(extra)).replace(".", r"\.")):
        load_model(tmp_path / "mine.pth")


def test_rejects_a_layer_that_takes_the_outputs(tmp_path: Path) -> None:
    tensors = prefixed("backbone.")(timm_network().state_dict())
    torch.save({**tensors, "fc.weight": torch.zeros(2, 5), "fc.bias": torch.zeros(2)}, tmp_path / "mine.pth")
    with pytest.raises(CheckpointMismatch, match=r"fc\.weight"):
        load_model(tmp_path / "mine.pth")


def test_names_a_classifier_outside_of_the_network(tmp_path: Path) -> None:
    tensors = prefixed("backbone.")(timm_network(num_classes=0).state_dict())
    torch.save({**tensors, "fc.weight": torch.zeros(2, 24), "fc.bias": torch.zeros(2)}, tmp_path / "mine.pth")
    with pytest.raises(CheckpointMismatch, match=r"fc\.weight.*backbone\.head\.fc\.weight"):
        load_model(tmp_path / "mine.pth")


class TestHeads:
    def timm_head(self, *layers: nn.Module) -> nn.Module:
        network = timm_network()
        network.get_submodule("head").add_module("fc", nn.Sequential(*layers))
        return randomize(network)

    def torchvision_head(self, *layers: nn.Module) -> nn.Module:
        network = torchvision_network()
        network.get_submodule("classifier").add_module("2", nn.Sequential(*layers))
        return randomize(network)

    def test_dropout_is_a_renaming(self, tmp_path: Path) -> None:
        for build in (self.timm_head, self.torchvision_head):
            reference = build(nn.Dropout(0.3), nn.Linear(24, 3))
            torch.save(reference.state_dict(), tmp_path / "mine.pth")
            model = load_model(tmp_path / "mine.pth")
            assert largest_difference(model.network, reference) < 1e-4
            assert any("dropout" in note for note in model.notes)

    def test_dropout_before_the_last_layer_of_torchvision(self, tmp_path: Path) -> None:
        reference = torchvision_network()
        layers = [*reference.get_submodule("classifier").children()][:2]
        reference.classifier = nn.Sequential(*layers, nn.Dropout(), nn.Linear(24, 3))
        torch.save(randomize(reference).state_dict(), tmp_path / "mine.pth")
        assert largest_difference(load_model(tmp_path / "mine.pth").network, reference) < 1e-4

    def test_a_norm_in_the_place_of_the_classifier_is_named(self, tmp_path: Path) -> None:
        reference = torchvision_network()
        layers = [*reference.get_submodule("classifier").children()][:2]
        reference.classifier = nn.Sequential(*layers, nn.LayerNorm(24), nn.Linear(24, 3))
        torch.save(randomize(reference).state_dict(), tmp_path / "mine.pth")
        with pytest.raises(CheckpointMismatch, match=r"classifier\.2\.weight.*classifier\.3\.weight"):
            load_model(tmp_path / "mine.pth")

    def test_an_mlp_is_named(self, tmp_path: Path) -> None:
        for build in (self.timm_head, self.torchvision_head):
            reference = build(nn.Linear(24, 9), nn.ReLU(), nn.Linear(9, 3))
            torch.save(reference.state_dict(), tmp_path / "mine.pth")
            with pytest.raises(CheckpointMismatch, match="MLP"):
                load_model(tmp_path / "mine.pth")

    def test_timm_with_a_hidden_layer_is_an_mlp(self, tmp_path: Path) -> None:
        torch.save(timm_network(head_hidden_size=9).state_dict(), tmp_path / "mine.pth")
        with pytest.raises(CheckpointMismatch, match="MLP"):
            load_model(tmp_path / "mine.pth")

    def test_other_layers_with_parameters_are_rejected(self, tmp_path: Path) -> None:
        reference = self.timm_head(nn.BatchNorm1d(24), nn.Linear(24, 3))
        torch.save(reference.state_dict(), tmp_path / "mine.pth")
        with pytest.raises(CheckpointMismatch, match=r"head\.fc\.0"):
            load_model(tmp_path / "mine.pth")


class TestOtherFiles:
    def rejected(self, path: Path) -> str:
        with pytest.raises(CheckpointError) as error:
            load_model(path)
        return str(error.value)

    def test_torchscript(self, tmp_path: Path) -> None:
        script: Any = torch.jit.script(nn.Linear(2, 2))  # Any: torch.jit has no types
        script.save(str(tmp_path / "mine.pt"))
        assert "TorchScript" in self.rejected(tmp_path / "mine.pt")

    def test_torch_export(self, tmp_path: Path) -> None:
        torch.export.save(torch.export.export(nn.Linear(2, 2), (torch.ones(1, 2),)), tmp_path / "mine.pt2")
        assert "torch.export" in self.rejected(tmp_path / "mine.pt2")

    def test_archives(self, tmp_path: Path) -> None:
        (tmp_path / "mine.pth").write_bytes(b"x")
        with zipfile.ZipFile(tmp_path / "mine.zip", "w") as archive:
            archive.write(tmp_path / "mine.pth", "mine.pth")
        with tarfile.open(tmp_path / "mine.tar", "w") as tar:
            tar.add(tmp_path / "mine.pth", "mine.pth")
        assert "zip archive" in self.rejected(tmp_path / "mine.zip")
        assert "tar archive" in self.rejected(tmp_path / "mine.tar")

    @pytest.mark.parametrize(
        ("name", "content", "kind"),
        [("a.h5", b"\x89HDF\r\n\x1a\n", "Keras"), ("a.onnx", b"\x08\x08\x12\x07pytorch", "ONNX")],
    )
    def test_files_of_other_frameworks(self, tmp_path: Path, name: str, content: bytes, kind: str) -> None:
        (tmp_path / name).write_bytes(content)
        assert kind in self.rejected(tmp_path / name)
