import functools
import json
import logging
import re
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from safetensors.torch import save_file
from torchvision import models

from model import Transform, load_model
from model.checkpoints import load as checkpoint
from model.checkpoints.download import sha256_of
from model.checkpoints.load import describe
from model.checkpoints.native import save_checkpoint
from model.checkpoints.registry import WeightsEntry
from model.convnext import ConvNeXt, ConvNeXtConfig
from model.errors import CheckpointError, CheckpointMismatch, DownloadError

CONFIG = ConvNeXtConfig((1, 1), (8, 16), num_classes=3)


@pytest.fixture
def tensors(randomise):
    return randomise(ConvNeXt(CONFIG)).state_dict()


@pytest.fixture
def load(tmp_path):
    def save_and_load(tensors, **arguments):
        save_file(tensors, tmp_path / "mine.safetensors")
        return load_model(tmp_path / "mine.safetensors", **arguments)

    return save_and_load


def test_a_loaded_model_is_ready_to_serve(tmp_path, tensors, load):
    model = load(tensors)
    assert not model.network.training
    assert {(p.dtype, p.device.type, p.requires_grad) for p in model.network.parameters()} == {
        (torch.float32, "cpu", False)
    }
    assert model.config == model.network.config == CONFIG
    assert model.sha256 == sha256_of(tmp_path / "mine.safetensors")
    assert (model.name, model.family, model.licence) == ("mine", "timm", "unknown")


def test_what_the_file_leaves_open_is_said(tensors, load, caplog):
    caplog.set_level(logging.INFO)
    model = load(tensors)
    assert model.transform == Transform(256, 224, "bicubic")
    assert model.labels == ("class_0", "class_1", "class_2")
    assert re.match(r"the file says nothing of its preprocessing; timm's default is used", model.notes[0])
    assert all(note in caplog.text for note in model.notes)


def test_a_thousand_classes_are_taken_for_imagenets(load):
    model = load(ConvNeXt(ConvNeXtConfig((1,), (8,))).state_dict())
    assert model.labels[281] == "tabby"
    assert any("ImageNet-1K" in note for note in model.notes)


def test_the_weights_outlive_a_file_that_is_overwritten(tmp_path, tensors, load):
    model = load(tensors)
    path = tmp_path / "mine.safetensors"
    path.write_bytes(bytes(path.stat().st_size))
    torch.testing.assert_close(model.network.state_dict(), tensors)


class TestLabels:
    def test_a_file_overrides_the_checkpoints(self, tmp_path, tensors):
        path, labels = tmp_path / "mine.safetensors", tmp_path / "labels.json"
        save_checkpoint(path, tensors, CONFIG, Transform(64, 64), ("a", "b", "c"), name="mine", licence="MIT")
        assert load_model(path).labels == ("a", "b", "c")
        labels.write_text(json.dumps(["x", "y", "z"]))
        assert load_model(path, labels=labels).labels == ("x", "y", "z")

    def test_a_count_that_does_not_match_the_head(self, tmp_path, tensors, load):
        (tmp_path / "two.txt").write_text("x\ny\n")
        with pytest.raises(CheckpointMismatch, match=r"two\.txt: 2 labels for a head of 3 classes"):
            load(tensors, labels=tmp_path / "two.txt")
        with pytest.raises(CheckpointMismatch, match="imagenet_1k: 1000 labels for a head of 3 classes"):
            load(tensors, labels="imagenet_1k")


class TestMismatch:
    def test_missing(self, tensors, load):
        del tensors["stages.1.blocks.0.norm.bias"]
        with pytest.raises(CheckpointMismatch, match=r"missing: stages\.1\.blocks\.0\.norm\.bias \(16,\)$"):
            load(tensors)

    def test_left_over(self, tensors, load):
        with pytest.raises(CheckpointMismatch, match=r"left over: head\.extra \(2, 2\)$"):
            load(tensors | {"head.extra": torch.zeros(2, 2)})

    def test_misshapen(self, tensors, load):
        tensors["head.fc.bias"] = torch.zeros(4)
        with pytest.raises(CheckpointMismatch, match=r"misshapen: head\.fc\.bias expected \(3,\), found \(4,\)$"):
            load(tensors)

    def test_several_at_once_are_counted(self, tensors, load):
        strangers = {f"projection.{number}": torch.zeros(1) for number in range(9)}
        with pytest.raises(CheckpointMismatch, match=r"left over: projection\.0 .* and 5 more"):
            load(tensors | strangers)

    def test_no_head(self, tensors, load):
        del tensors["head.fc.weight"], tensors["head.fc.bias"]
        with pytest.raises(CheckpointMismatch, match=r"head\.fc\.weight is missing: it has no classification head"):
            load(tensors)

    def test_blocks_numbered_without_end(self, tensors, load):
        with pytest.raises(CheckpointMismatch, match="do not fit a file of"):
            load(tensors | {"stages.0.blocks.999999999.norm.bias": torch.zeros(8)})

    def test_head_of_another_size_than_the_header_says(self, tmp_path, tensors):
        wider = ConvNeXtConfig((1, 1), (8, 16), num_classes=4)
        save_checkpoint(
            tmp_path / "a", tensors, wider, Transform(64, 64), ("a", "b", "c", "d"), name="mine", licence="MIT"
        )
        with pytest.raises(CheckpointMismatch, match=r"head\.fc\.weight expected \(4, 16\), found \(3, 16\)"):
            load_model(tmp_path / "a")


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_numbers_that_are_none(tensors, load, number):
    tensors["stem.1.weight"][3] = number
    with pytest.raises(CheckpointError, match=r"stem\.1\.weight holds NaN or infinite"):
        load(tensors)


def test_integers_are_no_weights(tensors, load):
    tensors["stem.1.weight"] = torch.ones(8, dtype=torch.int8)
    with pytest.raises(CheckpointError, match=r"stem\.1\.weight holds torch\.int8"):
        load(tensors)


def test_another_architecture(tmp_path):
    with torch.device("meta"):
        network = models.resnet18()
    torch.save(network.to_empty(device="cpu").state_dict(), tmp_path / "resnet18.pth")
    message = r"resnet18\.pth is no ConvNeXt of a known family \(torchvision, .*\): its tensors are conv1\.weight"
    with pytest.raises(CheckpointError, match=message):
        load_model(tmp_path / "resnet18.pth")


def test_grey_images_are_not_served(load):
    with pytest.raises(CheckpointError, match="images of 1 channels"):
        load(ConvNeXt(ConvNeXtConfig((1,), (8,), in_channels=1)).state_dict())


class TestNames:
    def test_unknown_names_get_a_hint(self):
        with pytest.raises(CheckpointError, match="did you mean convnext_tiny"):
            load_model("convnext_tinny")
        with pytest.raises(CheckpointError, match="`convnext-serve weights list` shows their names"):
            load_model("resnet50")

    def test_a_registered_file_is_used_from_the_cache_and_verified(self, tmp_path, monkeypatch, tensors):
        path = tmp_path / "w.safetensors"
        save_file(tensors, path)
        entry = WeightsEntry(
            "w", path.name, "a test", "http://127.0.0.1:1/w", sha256_of(path)[:8], CONFIG, Transform(70, 64),
            licence="CC-BY-NC-4.0", top1=12.5,
        )  # fmt: skip
        monkeypatch.setattr(checkpoint, "REGISTRY", {"w": entry})
        model = load_model("w", cache_dir=tmp_path)
        assert (model.name, model.transform, model.top1, model.path) == ("w", Transform(70, 64), 12.5, path)
        path.write_bytes(path.read_bytes() + b"x")
        with pytest.raises(DownloadError, match="damaged or another file"):
            load_model("w", cache_dir=tmp_path)

    def test_a_registered_file_is_fetched_on_first_use(self, tmp_path, monkeypatch, tensors):
        (tmp_path / "site").mkdir()
        save_file(tensors, tmp_path / "site" / "w.safetensors")
        handler = functools.partial(SimpleHTTPRequestHandler, directory=tmp_path / "site")
        with ThreadingHTTPServer(("127.0.0.1", 0), handler) as site:
            thread = threading.Thread(target=site.serve_forever, kwargs={"poll_interval": 0.01})
            thread.start()
            url = f"http://127.0.0.1:{site.server_port}/w.safetensors"
            entry = WeightsEntry("w", "w.safetensors", "a test", url, None, CONFIG, Transform(70, 64))
            monkeypatch.setattr(checkpoint, "REGISTRY", {"w": entry})
            first = load_model("w", cache_dir=tmp_path / "cache")
            site.shutdown()
            thread.join(10)
        again = load_model("w", cache_dir=tmp_path / "cache")
        assert first.path == again.path == tmp_path / "cache" / "w.safetensors"
        assert first.sha256 == again.sha256 == (tmp_path / "cache" / "w.safetensors.sha256").read_text().split()[0]
        torch.testing.assert_close(again.network.state_dict(), tensors)

    def test_a_licence_against_commercial_use_is_said(self, tmp_path, tensors, caplog):
        save_checkpoint(
            tmp_path / "a", tensors, CONFIG, Transform(64, 64), ("a", "b", "c"), name="mine", licence="CC-BY-NC-4.0"
        )
        load_model(tmp_path / "a")
        assert "mine: its licence, CC-BY-NC-4.0, forbids commercial use" in caplog.text


class TestDescribe:
    def test_a_published_size(self, tmp_path, randomise):
        with torch.device("meta"):
            network = models.convnext_tiny(num_classes=7)
        torch.save({"model": randomise(network).half().state_dict()}, tmp_path / "a.pth")
        found = describe(tmp_path / "a.pth")
        assert (found.family, found.container, found.version, found.size) == ("torchvision", "pickle", 1, "tiny")
        assert (found.config.num_classes, found.dtypes) == (7, ("float16",))
        assert found.parameters == sum(parameter.numel() for parameter in network.parameters())

    def test_a_size_of_its_own(self, tmp_path, tensors):
        save_file(tensors, tmp_path / "a")
        assert describe(tmp_path / "a").size is None
