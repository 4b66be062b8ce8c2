"""What training libraries save with a network changes nothing, or is rejected if the network alone would be wrong."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.distributed.checkpoint.state_dict import get_state_dict
from torchvision.transforms import v2

from model import load_model
from model.errors import CheckpointError, CheckpointMismatch
from tests.model.checkpoints.test_network_search import (
    prefixed,
    timm_network,
    torchvision_network,
    transformers_network,
    zeros,
)
from tests.model.conftest import largest_difference, randomize


def wrap_blocks(network: nn.Module, wrapper: Callable[[nn.Module], nn.Module]) -> nn.Module:
    for stage in network.get_submodule("stages").children():
        blocks = stage.get_submodule("blocks")
        for name, block in blocks.named_children():
            setattr(blocks, name, wrapper(block))
    return network


@pytest.mark.parametrize("wrapper", [torch.compile, checkpoint_wrapper], ids=["compile", "checkpoint"])
def test_blocks_may_be_wrapped(tmp_path: Path, wrapper: Callable[[nn.Module], nn.Module]) -> None:
    reference = randomize(timm_network())
    wrapped = wrap_blocks(timm_network(), wrapper)
    names = dict(zip(wrapped.state_dict(), reference.state_dict().values(), strict=True))
    torch.save(names, tmp_path / "mine.pth")
    assert largest_difference(load_model(tmp_path / "mine.pth").network, reference) < 1e-4


def test_the_state_of_an_optimizer_by_names_is_not_a_network(tmp_path: Path) -> None:
    reference = randomize(timm_network())
    optimizer = torch.optim.AdamW(reference.parameters(), lr=0.0)
    reference(torch.randn(2, 3, 64, 64)).sum().backward()
    optimizer.step()
    tensors, state = get_state_dict(reference, optimizer)
    torch.save({"model": tensors, "optimizer": state}, tmp_path / "mine.pth")
    assert largest_difference(load_model(tmp_path / "mine.pth").network, reference.eval()) < 1e-4


@pytest.mark.parametrize("num_classes", [3, 8])
def test_the_number_of_classes_may_be_that_of_channels(tmp_path: Path, num_classes: int) -> None:
    reference = randomize(timm_network(num_classes=num_classes))
    tensors = reference.state_dict()
    torch.save({"state_dict": zeros(tensors), "state_dict_ema": tensors}, tmp_path / "mine.pth")
    assert largest_difference(load_model(tmp_path / "mine.pth").network, reference) < 1e-4


@pytest.mark.parametrize("ema", ["on", "off"])
def test_only_mmengine_exchanges_averaged_weights(tmp_path: Path, ema: Any) -> None:  # Any: a literal
    reference = randomize(timm_network())
    tensors = reference.state_dict()
    names = ("state_dict", "ema_state_dict") if ema == "off" else ("ema_state_dict", "state_dict")
    torch.save(dict(zip(names, (tensors, zeros(tensors)), strict=True)), tmp_path / "mine.pth")
    assert largest_difference(load_model(tmp_path / "mine.pth", ema=ema).network, reference) < 1e-4


@pytest.mark.parametrize(
    "layer",
    [
        nn.Linear(24, 5),  # takes the features, so that the classifier of the network is not used
        nn.Sequential(nn.Linear(24, 12), nn.ReLU(), nn.Linear(12, 5)),
        nn.Linear(7, 5),  # of other data, added to the outputs
        nn.BatchNorm2d(3),
        nn.LayerNorm(5),
        nn.Conv2d(24, 1, 3),
    ],
)
def test_rejects_layers_beside_the_network(tmp_path: Path, layer: nn.Module) -> None:
    for wrapper in (nn.ModuleDict({"backbone": timm_network(), "other": layer}), nn.Sequential(layer, timm_network())):
        torch.save(wrapper.state_dict(), tmp_path / "mine.pth")
        with pytest.raises(CheckpointMismatch, match="beside"):
            load_model(tmp_path / "mine.pth")


def test_a_part_of_the_network_may_have_two_names(tmp_path: Path) -> None:
    reference = randomize(transformers_network())
    wrapper = nn.ModuleDict({"backbone": reference.get_submodule("convnext"), "model": reference})
    torch.save(wrapper.state_dict(), tmp_path / "mine.pth")
    assert largest_difference(load_model(tmp_path / "mine.pth").network, reference) < 1e-4


def test_rejects_a_second_network_without_a_classifier(tmp_path: Path) -> None:
    wrapper = nn.ModuleDict({"first": timm_network(), "second": timm_network(num_classes=0)})
    torch.save(wrapper.state_dict(), tmp_path / "mine.pth")
    with pytest.raises(CheckpointError, match=r"first.*second"):
        load_model(tmp_path / "mine.pth")


@pytest.mark.parametrize("key", ["metric_fc.weight", "loss.weight", "criterion.W"])
def test_rejects_the_classifier_in_a_loss(tmp_path: Path, key: str) -> None:
    shape = (5, 40) if key.endswith(".W") else (40, 5)
    torch.save(prefixed("backbone.")(timm_network().state_dict()) | {key: torch.zeros(shape)}, tmp_path / "mine.pth")
    with pytest.raises(CheckpointMismatch, match=key.replace(".", r"\.")):
        load_model(tmp_path / "mine.pth")


@pytest.mark.parametrize(
    "key", ["temperature", "logit_scale", "pool.p", "gem.p", "model.scale", "model.stages.0.metric.weight"]
)
def test_rejects_what_changes_the_logits(tmp_path: Path, key: str) -> None:
    torch.save(prefixed("model.")(timm_network().state_dict()) | {key: torch.ones(1)}, tmp_path / "mine.pth")
    with pytest.raises(CheckpointMismatch, match=key.removeprefix("model.").replace(".", r"\.")):
        load_model(tmp_path / "mine.pth")


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ("lora.stages.0.blocks.0.mlp.fc1.lora_A", "adapters"),
        ("model.stages.0.blocks.0.mlp.fc1.lora_B.default.weight", "adapters"),
        ("model.head.fc.modules_to_save.default.weight", "adapters"),
        ("model.stages.0.blocks.0.mlp.fc1.SCB", "quantized"),
        ("model.head.fc.weight_scale", "quantized"),
    ],
)
def test_names_adapters_and_quantized_layers(tmp_path: Path, key: str, kind: str) -> None:
    tensors = prefixed("model.")(timm_network().state_dict())
    save_file(tensors | {key: torch.zeros(2, 2)}, tmp_path / "mine.safetensors")
    with pytest.raises(CheckpointMismatch, match=kind):
        load_model(tmp_path / "mine.safetensors")


class TestNormalizationInTheFile:
    MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)

    @pytest.fixture(params=[("normalize.mean", "normalize.std", 1), ("0.mu", "0.sigma", 1), ("mean", "std", 255)])
    def path(self, request: pytest.FixtureRequest, tmp_path: Path) -> Path:
        mean, std, scale = request.param
        buffers = {mean: torch.tensor(self.MEAN) * scale, std: torch.tensor(self.STD).view(1, 3, 1, 1) * scale}
        torch.save(prefixed("model.")(torchvision_network().state_dict()) | buffers, tmp_path / "mine.pth")
        return tmp_path / "mine.pth"

    def test_is_that_of_the_transform(self, path: Path, texture: Image.Image) -> None:
        chain = v2.Compose([v2.PILToTensor(), v2.Resize(256, antialias=True), v2.CenterCrop(224)])
        scaled = v2.functional.to_dtype(chain(texture), torch.float32, scale=True)
        expected = v2.functional.normalize(scaled, list(self.MEAN), list(self.STD))
        torch.testing.assert_close(load_model(path).transform(texture), expected, atol=1e-4, rtol=0)

    @pytest.mark.parametrize("value", [0.5, 127.5])
    def test_may_be_one_number_for_all_channels(self, tmp_path: Path, value: float) -> None:
        buffers = {"image_mean": torch.tensor(value), "image_std": torch.tensor([value])}
        torch.save(prefixed("model.")(timm_network().state_dict()) | buffers, tmp_path / "mine.pth")
        white = load_model(tmp_path / "mine.pth").transform(Image.new("RGB", (300, 300), "white"))
        torch.testing.assert_close(white, torch.ones(3, 224, 224))

    @pytest.mark.parametrize(
        ("mean", "std"),
        [((0.5,) * 3, (0.0,) * 3), ((0.5,) * 3, (4.3, 4.4, 4.4)), ((123.0,) * 3, (0.2,) * 3), ((torch.nan,) * 3, STD)],
        ids=["zero", "inverse", "two scales", "NaN"],
    )
    def test_must_be_of_pixels(self, tmp_path: Path, mean: Sequence[float], std: Sequence[float]) -> None:
        buffers = {"normalize.mean": torch.tensor(mean), "normalize.std": torch.tensor(std)}
        torch.save(prefixed("model.")(timm_network().state_dict()) | buffers, tmp_path / "mine.pth")
        with pytest.raises(CheckpointError, match="pixels"):
            load_model(tmp_path / "mine.pth")

    def test_statistics_of_measurements_are_not_one(self, tmp_path: Path) -> None:
        bare = prefixed("model.")(timm_network().state_dict())
        measured = {"metric.mean": torch.tensor([0.1, 0.2, 0.3]), "metric.std": torch.tensor([0.1, 0.2, 0.3])}
        torch.save(bare, tmp_path / "bare.pth")
        torch.save(bare | measured, tmp_path / "mine.pth")
        assert load_model(tmp_path / "mine.pth").transform == load_model(tmp_path / "bare.pth").transform

    def test_may_not_contradict_the_configuration(self, path: Path) -> None:
        config = path.with_name("config.json")
        config.write_text(f'{{"pretrained_cfg": {{"mean": {list(self.MEAN)}, "std": {list(self.STD)}}}}}')
        assert load_model(path.parent).transform.mean == self.MEAN
        config.write_text('{"pretrained_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}}')
        with pytest.raises(CheckpointMismatch, match="normalizes"):
            load_model(path.parent)


@pytest.mark.parametrize(
    "change",
    [
        lambda tensor: tensor.to_sparse(),
        lambda tensor: tensor.to("meta"),
        lambda tensor: torch.empty(0),  # of DeepSpeed's ZeRO-3
    ],
    ids=["sparse", "meta", "empty"],
)
def test_rejects_tensors_without_data(tmp_path: Path, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    tensors = timm_network().state_dict()
    torch.save(tensors | {"head.fc.weight": change(tensors["head.fc.weight"])}, tmp_path / "mine.pth")
    with pytest.raises(CheckpointError, match=r"head\.fc\.weight"):
        load_model(tmp_path / "mine.pth")


@pytest.mark.parametrize("parametrize", [nn.utils.parametrizations.weight_norm, nn.utils.spectral_norm])
def test_names_a_parametrized_classifier(tmp_path: Path, parametrize: Callable[[nn.Module], nn.Module]) -> None:
    network = timm_network()
    parametrize(network.get_submodule("head.fc"))
    torch.save(network.state_dict(), tmp_path / "mine.pth")
    with pytest.raises(CheckpointMismatch, match=r"missing key head\.fc\.weight, found .*weight"):
        load_model(tmp_path / "mine.pth")


SPARSE = torch.eye(3).to_sparse()


@pytest.mark.parametrize("beside", [{"classes": SPARSE}, {"loss": {"mean": SPARSE[0], "std": SPARSE[0]}}], ids=range(2))
def test_sparse_tensors_beside_the_network_are_ignored(tmp_path: Path, beside: dict[str, Any]) -> None:  # Any: nested
    torch.save({"model": timm_network().state_dict()} | beside, tmp_path / "mine.pth")
    assert load_model(tmp_path / "mine.pth").labels[0] == "class_0"


@pytest.mark.parametrize("key", ["head.fc.weight", "head.norm.weight", "stages.0.blocks.0.conv_dw.weight"])
@pytest.mark.parametrize("tensor", [torch.tensor(1.0), SPARSE], ids=["scalar", "sparse"])
def test_rejects_unexpected_tensors_in_the_network(tmp_path: Path, key: str, tensor: torch.Tensor) -> None:
    changed = timm_network().state_dict() | {key: tensor}
    for content in ({"model": changed, "other.weight": torch.ones(2, 5)}, {"a": changed, "b": changed}):
        torch.save(content, tmp_path / "mine.pth")
        with pytest.raises(CheckpointError):
            load_model(tmp_path / "mine.pth")


def test_a_cycle_in_the_options_is_ignored(tmp_path: Path) -> None:
    names: list[Any] = []  # Any: itself
    names.append(names)
    torch.save({"model": timm_network().state_dict(), "classes": names}, tmp_path / "mine.pth")
    assert load_model(tmp_path / "mine.pth").labels[0] == "class_0"
