import re
from pathlib import Path

import pytest
import timm
import torch
from torchvision.models import get_weight

from model import DEFAULT_MODEL
from model.checkpoints.families import detect_family, infer_config
from model.checkpoints.hf_folder import timm_transform
from model.checkpoints.registry import (
    WeightsEntry,
    fetch_weights,
    is_non_commercial,
    registered_weights,
    verify_weights,
)
from model.convnext import config_for
from model.errors import DownloadError
from model.images.transform import Transform
from model.labels import label_sets

ENTRIES = registered_weights()
SHA256_OF_ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def names(source: str) -> list[str]:
    return [name for name, entry in ENTRIES.items() if entry.source.startswith(source)]


def test_names_and_file_names_are_unique() -> None:
    assert all(name == entry.name for name, entry in ENTRIES.items())
    assert len({entry.file_name for entry in ENTRIES.values()}) == len(ENTRIES) == 39
    assert ENTRIES[DEFAULT_MODEL].path().exists()


@pytest.mark.parametrize("name", [name for name in ENTRIES if name != DEFAULT_MODEL])
def test_entries_are_complete(name: str) -> None:
    entry = ENTRIES[name]
    assert entry.url is not None
    assert re.fullmatch(r"https://[^{}]+", entry.url)
    assert entry.sha256 is None or re.fullmatch(r"[0-9a-f]{8}|[0-9a-f]{64}", entry.sha256)
    assert entry.labels in label_sets()
    assert entry.licence
    assert entry.top1 is not None
    assert 70 < entry.top1 < 90
    assert entry.transform
    assert entry.config
    assert entry.card().labels is not None


@pytest.mark.parametrize("size", ["tiny", "small", "base", "large"])
def test_entries_match_torchvision(size: str) -> None:
    entry, published = ENTRIES[f"convnext_{size}"], get_weight(f"ConvNeXt_{size.title()}_Weights.IMAGENET1K_V1")
    assert entry.url == published.url
    assert f"-{entry.sha256}.pth" in published.url
    assert entry.top1 == published.meta["_metrics"]["ImageNet-1K"]["acc@1"]
    assert entry.card().labels == tuple(published.meta["categories"])
    assert entry.config == config_for(size)
    transform = published.transforms()
    assert entry.transform == Transform(
        transform.resize_size[0],
        transform.crop_size[0],
        transform.interpolation.value,
        tuple(transform.mean),
        tuple(transform.std),
    )


@pytest.mark.parametrize("name", names("timm") + names("facebookresearch"))
def test_entries_match_timm(name: str) -> None:
    """timm also lists the files of the authors, but with the licence Apache-2.0 instead of MIT for V1."""
    entry, published = ENTRIES[name], timm.get_pretrained_cfg(name)
    assert entry.url is not None
    assert published is not None
    if "huggingface.co" in entry.url:
        assert entry.url.startswith(f"https://huggingface.co/{published.hf_hub_id}/resolve/")
    else:
        assert entry.url == published.url
    assert str(entry.licence).lower() == ("mit" if ".fb_" in name else published.license)
    data = {key: getattr(published, key) for key in ("input_size", "crop_pct", "interpolation", "mean", "std")}
    assert entry.transform == timm_transform(data)
    if entry.sha256 and len(entry.sha256) == 8:
        assert f"-{entry.sha256}.pth" in entry.url


@pytest.mark.parametrize("name", names("timm"))
def test_configs_match_the_networks_of_timm(name: str) -> None:
    with torch.device("meta"):
        tensors = timm.create_model(name, device="meta").state_dict()
    assert infer_config(tensors, detect_family(tensors, name), name) == ENTRIES[name].config


@pytest.mark.parametrize("name", names("facebookresearch"))
def test_configs_match_the_file_names_of_the_authors(name: str) -> None:
    version, size = re.split(r"_|\.", name)[:2]
    assert ENTRIES[name].config == config_for(size, 2 if version == "convnextv2" else 1)
    assert f"{version}_{size}_" in str(ENTRIES[name].url)


def test_rejects_a_missing_embedded_file(tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=r"absent\.safetensors"):
        fetch_weights(WeightsEntry("x", "absent.safetensors", "a test"), tmp_path)


class TestVerify:
    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        path = tmp_path / "w.bin"
        path.write_bytes(b"abc")
        return path

    @pytest.mark.parametrize("sha256", [SHA256_OF_ABC, SHA256_OF_ABC[:8]], ids=len)
    def test_detects_a_corrupt_file_by_its_published_digest(self, path: Path, sha256: str) -> None:
        entry = WeightsEntry("w", path.name, "a test", "http://127.0.0.1:1/w.bin", sha256)
        assert verify_weights(entry, path.parent) == SHA256_OF_ABC
        path.write_bytes(b"abd")
        with pytest.raises(DownloadError, match=f"expected {sha256}"):
            verify_weights(entry, path.parent)

    def test_detects_a_corrupt_file_by_its_recorded_digest(self, path: Path) -> None:
        entry = WeightsEntry("w", path.name, "a test", "http://127.0.0.1:1/w.bin")
        assert verify_weights(entry, path.parent) == SHA256_OF_ABC
        path.with_name("w.bin.sha256").write_text("0123  w.bin\n")
        with pytest.raises(DownloadError, match="expected 0123"):
            verify_weights(entry, path.parent)

    def test_accepts_an_empty_record(self, path: Path) -> None:
        path.with_name("w.bin.sha256").touch()
        assert verify_weights(WeightsEntry("w", path.name, "a test", "http://127.0.0.1:1/w.bin"), path.parent)


@pytest.mark.parametrize(
    ("licence", "expected"),
    [("CC-BY-NC-4.0", True), ("cc-by-nc-4.0", True), ("fair-noncommercial-research-license", True), ("MIT", False)],
)
def test_recognizes_non_commercial_licences(licence: str, expected: bool) -> None:
    assert is_non_commercial(licence) is expected
