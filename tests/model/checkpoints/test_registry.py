import re

import pytest
import timm
import torch
from torchvision.models import get_weight

from model.checkpoints.hf_folder import _timm_transform
from model.checkpoints.key_maps import infer_config, recognise
from model.checkpoints.registry import (
    DEFAULT_MODEL,
    REGISTRY,
    WeightsEntry,
    fetch_weights,
    is_non_commercial,
    verify_weights,
)
from model.convnext import config_for
from model.errors import DownloadError
from model.labels import label_sets
from model.preprocess import Transform


def test_names_and_file_names_are_unique():
    assert all(name == entry.name for name, entry in REGISTRY.items())
    file_names = [entry.file_name for entry in REGISTRY.values()]
    assert len(file_names) == len(set(file_names))
    assert DEFAULT_MODEL in REGISTRY


@pytest.mark.parametrize("name", [name for name in REGISTRY if name != DEFAULT_MODEL])
def test_every_entry_is_complete(name):
    entry = REGISTRY[name]
    assert entry.url is not None
    assert entry.url.startswith("https://")
    assert entry.sha256 is None or re.fullmatch(r"[0-9a-f]{8}|[0-9a-f]{64}", entry.sha256)
    assert entry.labels in label_sets()
    assert entry.licence
    assert entry.top1 is not None
    assert 70 < entry.top1 < 90
    assert entry.transform
    assert entry.config
    assert entry.card().labels is not None


@pytest.mark.parametrize("size", ["tiny", "small", "base", "large"])
def test_torchvisions_files_are_as_torchvision_says(size):
    entry, published = REGISTRY[f"convnext_{size}"], get_weight(f"ConvNeXt_{size.title()}_Weights.IMAGENET1K_V1")
    assert entry.url == published.url
    assert entry.sha256 == re.search(r"-(\w+)\.pth", published.url).group(1)
    assert entry.top1 == published.meta["_metrics"]["ImageNet-1K"]["acc@1"]
    assert entry.card().labels == tuple(published.meta["categories"])
    assert entry.config == config_for(size)
    theirs = published.transforms()
    expected = Transform(
        theirs.resize_size[0], theirs.crop_size[0], theirs.interpolation.value, tuple(theirs.mean), tuple(theirs.std)
    )
    assert entry.transform == expected


@pytest.mark.parametrize("name", [name for name in REGISTRY if "." in name])
def test_the_other_files_are_as_timm_says(name):
    """timm lists the authors' files too: their addresses, transforms and licences, but MIT for V1 as Apache-2.0."""
    entry, published = REGISTRY[name], timm.get_pretrained_cfg(name)
    if "huggingface.co" in entry.url:
        assert entry.url.startswith(f"https://huggingface.co/{published.hf_hub_id}/resolve/")
    else:
        assert entry.url == published.url
    assert entry.licence.lower() == ("mit" if ".fb_" in name else published.license)
    data = {key: getattr(published, key) for key in ("input_size", "crop_pct", "interpolation", "mean", "std")}
    assert entry.transform == _timm_transform(data)
    if entry.sha256 and len(entry.sha256) == 8:
        assert f"-{entry.sha256}.pth" in published.url


@pytest.mark.parametrize("name", [name for name, entry in REGISTRY.items() if entry.source == "timm"])
def test_the_shapes_of_timms_own_are_timms(name):
    with torch.device("meta"):
        tensors = timm.create_model(name, device="meta").state_dict()
    assert infer_config(tensors, recognise(tensors, name), name) == REGISTRY[name].config


@pytest.mark.parametrize("name", [name for name, entry in REGISTRY.items() if entry.source.startswith("facebook")])
def test_the_authors_sizes_are_in_their_files_names(name):
    version, size = re.match(r"convnext(v2)?_(\w+)\.", name).groups()
    assert REGISTRY[name].config == config_for(size, 2 if version else 1)
    assert f"convnext{version or ''}_{size}_" in REGISTRY[name].url


def test_an_embedded_file_that_is_missing_is_an_error(tmp_path):
    with pytest.raises(DownloadError, match="without its embedded weights"):
        fetch_weights(WeightsEntry("x", "absent.safetensors", "a test"), tmp_path)


class TestVerify:
    @pytest.fixture
    def entry(self, tmp_path):
        (tmp_path / "w.bin").write_bytes(b"abc")
        return WeightsEntry("w", "w.bin", "a test", "http://127.0.0.1:1/w.bin")

    def test_published_prefix(self, entry, tmp_path):
        published = WeightsEntry("w", "w.bin", "a test", entry.url, sha256="ba7816bf")
        assert verify_weights(published, tmp_path).startswith("ba7816bf")
        (tmp_path / "w.bin").write_bytes(b"abd")
        with pytest.raises(DownloadError, match="where ba7816bf was expected"):
            verify_weights(published, tmp_path)

    def test_noted_at_the_fetch(self, entry, tmp_path):
        assert len(verify_weights(entry, tmp_path)) == 64
        (tmp_path / "w.bin.sha256").write_text("0123  w.bin\n")
        with pytest.raises(DownloadError, match="where 0123 was expected"):
            verify_weights(entry, tmp_path)

    def test_absent(self, entry, tmp_path):
        with pytest.raises(DownloadError, match="has not been fetched"):
            verify_weights(entry, tmp_path / "elsewhere")


@pytest.mark.parametrize(
    ("licence", "expected"),
    [("CC-BY-NC-4.0", True), ("cc-by-nc-4.0", True), ("fair-noncommercial-research-license", True), ("MIT", False)],
)
def test_non_commercial_licences(licence, expected):
    assert is_non_commercial(licence) is expected
