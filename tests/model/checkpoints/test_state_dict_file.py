import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from model.checkpoints.state_dict_file import read_state_dict
from model.errors import CheckpointError
from tests.model.checkpoints.test_unpickle import Call

TENSORS = {"stem.0.weight": torch.arange(6.0).reshape(2, 3), "head.fc.bias": torch.ones(2, dtype=torch.float16)}


def assert_complete(path: Path) -> None:
    found = read_state_dict(path).tensors
    assert list(found) == list(TENSORS)
    assert all(torch.equal(found[name], tensor) for name, tensor in TENSORS.items())


def test_reads_safetensors_and_its_metadata(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "a.bin", {"format": "pt"})
    archive = read_state_dict(tmp_path / "a.bin")
    assert archive.container == "safetensors"
    assert archive.metadata == {"format": "pt"}
    assert set(archive.tensors) == set(TENSORS)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_reads_both_formats_of_torch_save_with_any_suffix(tmp_path: Path, zipped: bool) -> None:
    torch.save(TENSORS, tmp_path / "a.safetensors", _use_new_zipfile_serialization=zipped)
    assert_complete(tmp_path / "a.safetensors")


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_rejects_a_pickle_with_code_without_running_it(tmp_path: Path, zipped: bool) -> None:
    folder = tmp_path / "created by the pickle"
    torch.save(
        {"model": TENSORS, "x": Call(os.mkdir, str(folder))}, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped
    )
    with pytest.raises(CheckpointError, match=r"\w+\.mkdir.*state_dict"):
        read_state_dict(tmp_path / "a.pth")
    assert not folder.exists()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_rejects_a_malicious_pickle_that_is_not_from_torch(tmp_path: Path) -> None:
    folder = tmp_path / "created by the pickle"
    (tmp_path / "a.pth").write_bytes(pickle.dumps(Call(os.mkdir, str(folder))))
    with pytest.raises(CheckpointError):
        read_state_dict(tmp_path / "a.pth")
    assert not folder.exists()


def test_rejects_a_pickled_module(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"torch\.nn\.modules\.linear\.Linear.*state_dict\(\)"):
        read_state_dict(tmp_path / "a.pth")


@pytest.mark.parametrize("container", ["safetensors", "zip", "legacy"])
@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.99])
def test_rejects_a_truncated_file(tmp_path: Path, container: str, fraction: float) -> None:
    path = tmp_path / "a"
    tensors = {"weight": torch.randn(10_000)}
    if container == "safetensors":
        save_file(tensors, path)
    else:
        torch.save(tensors, path, _use_new_zipfile_serialization=container == "zip")
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * fraction)])
    with pytest.raises(CheckpointError, match="truncated"):
        read_state_dict(path)


def test_rejects_an_archive_with_a_damaged_directory(tmp_path: Path) -> None:
    path = tmp_path / "mine.pth"
    torch.save({"weight": torch.ones(2)}, path)
    path.write_bytes(path.read_bytes().replace(b"PK\x01\x02", b"PK\x01\x00", 1))
    with pytest.raises(CheckpointError, match="corrupt"):
        read_state_dict(path)


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", "empty"),
        (b"\n<!DOCTYPE html><html>", "HTML"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "git lfs pull"),
        (b"\x89PNG\r\n\x1a\n", "PNG"),
    ],
)
def test_names_the_content_of_other_files(tmp_path: Path, content: bytes, kind: str) -> None:
    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match=kind):
        read_state_dict(tmp_path / "a.pth")


def test_rejects_a_numpy_archive(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", weight=np.zeros(3))
    with pytest.raises(CheckpointError, match=r"torch\.save"):
        read_state_dict(tmp_path / "a.npz")


@pytest.mark.parametrize(
    "content", [[1, 2], {}, {"epoch": 3}, {"model": {"lr": 0.1}}, {"model": {}}, {0: torch.zeros(1)}]
)
def test_rejects_a_pickle_without_a_state_dict(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="state_dict"):
        read_state_dict(tmp_path / "a.pth")


@pytest.mark.parametrize(("name", "reason"), [("absent", "No such file"), (".", "Is a directory")])
def test_rejects_a_path_that_cannot_be_read(tmp_path: Path, name: str, reason: str) -> None:
    with pytest.raises(CheckpointError, match=reason):
        read_state_dict(tmp_path / name)
