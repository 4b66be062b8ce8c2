import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torchvision import models

from model import DEFAULT_MODEL, LoadedModel, Transform, load_model
from model.checkpoints import load as load_module
from model.checkpoints.download import sha256_of
from model.checkpoints.load import inspect_checkpoint
from model.checkpoints.native import save_checkpoint
from model.checkpoints.registry import WeightsEntry
from model.convnext import ConvNeXt, ConvNeXtConfig
from model.errors import CheckpointError, CheckpointMismatch, DownloadError
from tests.model.conftest import randomize

CONFIG = ConvNeXtConfig((1, 1), (8, 16), num_classes=3)
UNREACHABLE = "http://127.0.0.1:1/w.safetensors"
Tensors = dict[str, Tensor]
Load = Callable[..., LoadedModel]
Register = Callable[[WeightsEntry], None]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "mine.safetensors"


@pytest.fixture
def tensors() -> Tensors:
    return randomize(ConvNeXt(CONFIG)).state_dict()


@pytest.fixture
def load(path: Path) -> Load:
    def save_and_load(tensors: Tensors, labels: str | Path | None = None) -> LoadedModel:
        save_file(tensors, path)
        return load_model(path, labels=labels)

    return save_and_load


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> Register:
    """``register(entry)`` makes an entry the only registered one."""
    return lambda entry: monkeypatch.setattr(load_module, "registered_weights", lambda: {entry.name: entry})


def save_native(path: Path, tensors: Tensors, licence: str = "MIT", labels: tuple[str, ...] = ("a", "b", "c")) -> None:
    save_checkpoint(path, tensors, CONFIG, Transform(64, 64), labels, name="mine", licence=licence)


def test_a_loaded_model_is_ready_for_inference(path: Path, tensors: Tensors, load: Load) -> None:
    model = load(tensors)
    assert not model.network.training
    properties = {(p.dtype, p.device.type, p.requires_grad) for p in model.network.parameters()}
    assert properties == {(torch.float32, "cpu", False)}
    assert model.config == model.network.config == CONFIG
    assert model.sha256 == sha256_of(path)
    assert (model.name, model.family, model.licence) == ("mine", "timm", "unknown")


def test_notes_and_logs_assumptions(tensors: Tensors, load: Load, caplog: pytest.LogCaptureFixture) -> None:
    model = load(tensors)
    assert model.transform == Transform(256, 224, "bicubic")
    assert model.labels == ("class_0", "class_1", "class_2")
    assert len(model.notes) == 3
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert all(any(note in warning for warning in warnings) for note in model.notes)


def test_assumes_imagenet_labels_for_1000_classes(load: Load) -> None:
    model = load(ConvNeXt(ConvNeXtConfig((1,), (8,))).state_dict())
    assert model.labels[281] == "tabby"
    assert any("ImageNet-1K" in note for note in model.notes)


def test_the_weights_are_independent_of_the_file(path: Path, tensors: Tensors, load: Load) -> None:
    model = load(tensors)
    path.write_bytes(bytes(path.stat().st_size))
    torch.testing.assert_close(dict(model.network.state_dict()), dict(tensors))


class TestLabels:
    def test_a_file_overrides_the_labels_of_the_checkpoint(self, tmp_path: Path, path: Path, tensors: Tensors) -> None:
        save_native(path, tensors)
        assert load_model(path).labels == ("a", "b", "c")
        labels = tmp_path / "labels.json"
        labels.write_text(json.dumps(["x", "y", "z"]))
        assert load_model(path, labels=labels).labels == ("x", "y", "z")

    def test_rejects_a_different_number_of_labels(self, tmp_path: Path, tensors: Tensors, load: Load) -> None:
        (tmp_path / "two.txt").write_text("x\ny\n")
        with pytest.raises(CheckpointMismatch, match=r"two\.txt.* 2 .* 3"):
            load(tensors, labels=tmp_path / "two.txt")
        with pytest.raises(CheckpointMismatch, match=r"imagenet_1k.* 1000 .* 3"):
            load(tensors, labels="imagenet_1k")

    def test_warns_of_duplicate_labels(self, path: Path, tensors: Tensors, caplog: pytest.LogCaptureFixture) -> None:
        save_native(path, tensors, labels=("crane", "b", "crane"))
        [note] = load_model(path).notes
        assert "'crane'" in note
        assert note in caplog.text


class TestMismatch:
    @pytest.mark.parametrize(
        ("removed", "added", "message"),
        [
            (["stages.1.blocks.0.norm.bias"], {}, r"missing key: stages\.1\.blocks\.0\.norm\.bias \(16,\)$"),
            (["head.fc.weight", "head.fc.bias"], {}, r"missing key head\.fc\.weight.*classification head"),
            ([], {"head.extra": (2, 2)}, r"unexpected key: head\.extra \(2, 2\)$"),
            ([], {"head.fc.bias": (4,)}, r"size mismatch: head\.fc\.bias expected \(3,\), found \(4,\)$"),
            ([], {f"projection.{number}": (1,) for number in range(9)}, r"projection\.0, .* and 5 more"),
            ([], {"stages.0.blocks.999999999.norm.bias": (8,)}, "1000000000"),
        ],
        ids=["missing", "no head", "unexpected", "size", "many", "huge block number"],
    )
    def test_keys_and_sizes_are_named(
        self, tensors: Tensors, load: Load, removed: list[str], added: dict[str, tuple[int, ...]], message: str
    ) -> None:
        changed = tensors | {name: torch.zeros(shape) for name, shape in added.items()}
        with pytest.raises(CheckpointMismatch, match=message):
            load({name: tensor for name, tensor in changed.items() if name not in removed})

    def test_head_of_a_different_size_than_in_the_header(self, path: Path, tensors: Tensors) -> None:
        wider = ConvNeXtConfig((1, 1), (8, 16), num_classes=4)
        save_checkpoint(path, tensors, wider, Transform(64, 64), ("a", "b", "c", "d"), name="mine", licence="MIT")
        with pytest.raises(CheckpointMismatch, match=r"head\.fc\.weight expected \(4, 16\), found \(3, 16\)"):
            load_model(path)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_rejects_nan_and_infinity(tensors: Tensors, load: Load, number: float) -> None:
    tensors["stem.1.weight"][3] = number
    with pytest.raises(CheckpointError, match=r"stem\.1\.weight .*NaN"):
        load(tensors)


def test_rejects_integer_weights(tensors: Tensors, load: Load) -> None:
    tensors["stem.1.weight"] = torch.ones(8, dtype=torch.int8)
    with pytest.raises(CheckpointError, match=r"stem\.1\.weight .*torch\.int8"):
        load(tensors)


def test_rejects_other_architectures(tmp_path: Path) -> None:
    with torch.device("meta"):
        network = models.resnet18()
    torch.save(network.to_empty(device="cpu").state_dict(), tmp_path / "resnet18.pth")
    with pytest.raises(CheckpointError, match=r"resnet18\.pth .*\(torchvision, .*\).* conv1\.weight"):
        load_model(tmp_path / "resnet18.pth")


def test_rejects_networks_for_greyscale_images(load: Load) -> None:
    with pytest.raises(CheckpointError, match="1 channels"):
        load(ConvNeXt(ConvNeXtConfig((1,), (8,), in_channels=1)).state_dict())


class TestNames:
    @pytest.mark.parametrize(
        ("name", "hint"),
        [
            ("convnext_tinny", r"convnext_tiny\b"),
            ("resnet50", "`convnext-serve weights list`"),
            ("~no_such_user/x", "~no_such_user/x"),
            ("x" * 5000, "File name too long"),
            ("https://huggingface.co/facebook/convnext-tiny-224", "OWNER/NAME"),
        ],
        ids=["misspelled", "unknown", "unknown user", "too long", "URL"],
    )
    def test_rejects_unknown_names(self, name: str, hint: str) -> None:
        with pytest.raises(CheckpointError, match=hint):
            load_model(name)

    def test_verifies_a_registered_file_in_the_cache(self, path: Path, register: Register, tensors: Tensors) -> None:
        save_file(tensors, path)
        sha256 = sha256_of(path)[:8]
        register(WeightsEntry("w", path.name, "a test", UNREACHABLE, sha256, CONFIG, Transform(70, 64), top1=12.5))
        model = load_model("w", cache_dir=path.parent)
        assert (model.name, model.transform, model.top1, model.path) == ("w", Transform(70, 64), 12.5, path)
        path.write_bytes(path.read_bytes() + b"x")
        with pytest.raises(DownloadError, match=f"expected {sha256}"):
            load_model("w", cache_dir=path.parent)

    def test_warns_of_a_path_with_the_name_of_a_registered_model(
        self,
        path: Path,
        register: Register,
        tensors: Tensors,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        save_file(tensors, path)
        register(WeightsEntry("w", path.name, "a test", UNREACHABLE, None, CONFIG, Transform(70, 64)))
        monkeypatch.chdir(path.parent)
        Path("w").mkdir()
        assert load_model("w", cache_dir=path.parent).transform == Transform(70, 64)
        assert "./w" in caplog.text

    def test_fetches_a_registered_file_on_first_use(self, path: Path, register: Register, tensors: Tensors) -> None:
        save_file(tensors, path)
        register(WeightsEntry("w", "w.safetensors", "a test", path.as_uri(), None, CONFIG, Transform(70, 64)))
        cache = path.parent / "cache"
        first = load_model("w", cache_dir=cache)
        path.unlink()
        again = load_model("w", cache_dir=cache)
        assert first.path == again.path == cache / "w.safetensors"
        assert first.sha256 == again.sha256 == (cache / "w.safetensors.sha256").read_text().split()[0]
        torch.testing.assert_close(dict(again.network.state_dict()), dict(tensors))

    def test_warns_of_a_non_commercial_licence(
        self, path: Path, tensors: Tensors, caplog: pytest.LogCaptureFixture
    ) -> None:
        save_native(path, tensors, licence="CC-BY-NC-4.0")
        load_model(path)
        assert "CC-BY-NC-4.0" in caplog.text


class TestInspect:
    def test_summarizes_a_file_of_a_published_size(self, path: Path) -> None:
        with torch.device("meta"):
            network = models.convnext_tiny(num_classes=7)
        network = randomize(network).half()
        torch.save({"model": network.state_dict()}, path)
        found = inspect_checkpoint(path)
        assert (found.name, found.path, found.licence, found.labels[6]) == ("mine", path, "unknown", "class_6")
        assert (found.family, found.container, found.version, found.size) == ("torchvision", "pickle", 1, "tiny")
        assert (found.config.num_classes, found.dtypes, found.transform) == (7, ("float16",), Transform(236))
        assert found.parameters == sum(parameter.numel() for parameter in network.parameters())

    def test_summarizes_a_file_of_another_size(self, path: Path, tensors: Tensors) -> None:
        save_native(path, tensors)
        found = inspect_checkpoint(path)
        assert (found.size, found.transform, found.labels) == (None, Transform(64, 64), ("a", "b", "c"))
        assert (found.family, found.licence, found.notes) == ("convnext-serve", "MIT", ())

    def test_summarizes_the_embedded_weights_by_name(self) -> None:
        found = inspect_checkpoint(DEFAULT_MODEL)
        assert (found.name, found.size, len(found.labels)) == (DEFAULT_MODEL, "atto", 200)

    def test_summarizes_registered_weights_only_after_they_are_fetched(
        self, path: Path, register: Register, tensors: Tensors
    ) -> None:
        register(WeightsEntry("w", path.name, "a test", UNREACHABLE, None, CONFIG, Transform(70, 64), licence="MIT"))
        with pytest.raises(DownloadError, match=r"mine\.safetensors"):
            inspect_checkpoint("w", cache_dir=path.parent)
        save_file(tensors, path)
        found = inspect_checkpoint("w", cache_dir=path.parent)
        assert (found.name, found.path, found.licence, found.transform) == ("w", path, "MIT", Transform(70, 64))
