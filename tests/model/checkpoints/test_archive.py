import argparse
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from model.checkpoints.archive import read_archive
from model.errors import CheckpointError

TENSORS = {"stem.0.weight": torch.arange(6.0).reshape(2, 3), "head.fc.bias": torch.ones(2, dtype=torch.float16)}


def assert_whole(path: Path) -> None:
    found = read_archive(path).tensors
    assert list(found) == list(TENSORS)
    assert all(torch.equal(found[name], tensor) for name, tensor in TENSORS.items())


def test_safetensors_with_its_header(tmp_path):
    save_file(TENSORS, tmp_path / "a.bin", {"format": "pt"})
    archive = read_archive(tmp_path / "a.bin")
    assert archive.container == "safetensors"
    assert archive.metadata == {"format": "pt"}
    assert set(archive.tensors) == set(TENSORS)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_both_of_torchs_own_formats_whatever_the_suffix(tmp_path, zipped):
    torch.save(TENSORS, tmp_path / "a.safetensors", _use_new_zipfile_serialization=zipped)
    assert_whole(tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    "content",
    [
        {"model": TENSORS},
        {"state_dict": TENSORS, "epoch": 3, "arch": "convnext_tiny"},
        {"model": TENSORS, "args": argparse.Namespace(lr=0.1), "optimizer": {"state": {}}},
        {"model_ema": TENSORS},
        {f"module.{name}": tensor for name, tensor in TENSORS.items()},
        {f"_orig_mod.module.{name}": tensor for name, tensor in TENSORS.items()},
        {"state_dict": {f"model.{name}": tensor for name, tensor in TENSORS.items()}},
        {"model_ema": {"n_averaged": torch.tensor(7)} | {f"module.{name}": t for name, t in TENSORS.items()}},
    ],
)
def test_wrappers_and_prefixes_come_off(tmp_path, content):
    torch.save(content, tmp_path / "a.pth")
    assert_whole(tmp_path / "a.pth")


def test_averaged_weights_come_first_and_that_is_said(tmp_path):
    torch.save({"model": {"x": torch.zeros(1)}, "model_ema": TENSORS}, tmp_path / "a.pth")
    assert_whole(tmp_path / "a.pth")
    assert "model_ema (the averaged weights)" in read_archive(tmp_path / "a.pth").notes[0]


class Malicious:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_code_in_a_pickle_is_refused_by_name_and_does_not_run(tmp_path, zipped):
    folder = tmp_path / "proof that code ran"
    torch.save({"model": TENSORS, "x": Malicious(folder)}, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=r"refused: besides tensors it holds \w+\.mkdir.*state_dict"):
        read_archive(tmp_path / "a.pth")
    assert not folder.exists()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_bare_malicious_pickle(tmp_path):
    folder = tmp_path / "proof that code ran"
    (tmp_path / "a.pth").write_bytes(pickle.dumps(Malicious(folder)))
    with pytest.raises(CheckpointError):
        read_archive(tmp_path / "a.pth")
    assert not folder.exists()


def test_a_whole_module_is_refused(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"torch\.nn\.modules\.linear\.Linear.*save its state_dict\(\) alone"):
        read_archive(tmp_path / "a.pth")


@pytest.mark.parametrize("container", ["safetensors", "zip", "legacy"])
@pytest.mark.parametrize("keep", [0.1, 0.5, 0.99])
def test_a_cut_off_file_says_so(tmp_path, container, keep):
    path = tmp_path / "a"
    tensors = {"weight": torch.randn(10_000)}
    if container == "safetensors":
        save_file(tensors, path)
    else:
        torch.save(tensors, path, _use_new_zipfile_serialization=container == "zip")
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
    with pytest.raises(CheckpointError, match="cut off"):
        read_archive(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is empty"),
        (b"\n<!DOCTYPE html><html>", "it is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "git lfs pull"),
        (b"\x89PNG\r\n\x1a\n", "neither a safetensors file"),
    ],
)
def test_other_files_are_told_apart(tmp_path, content, message):
    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        read_archive(tmp_path / "a.pth")


def test_a_numpy_archive_is_none_of_torchs(tmp_path):
    np.savez(tmp_path / "a.npz", weight=np.zeros(3))
    with pytest.raises(CheckpointError, match=r"not from torch\.save"):
        read_archive(tmp_path / "a.npz")


@pytest.mark.parametrize("content", [[1, 2], {}, {"epoch": 3}, {"model": {"lr": 0.1}}, {"model": {}}])
def test_a_pickle_without_a_state_dict(tmp_path, content):
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="state_dict"):
        read_archive(tmp_path / "a.pth")


def test_absent_and_unreadable(tmp_path):
    with pytest.raises(CheckpointError, match="cannot be read: No such file"):
        read_archive(tmp_path / "absent")
    with pytest.raises(CheckpointError, match="cannot be read: Is a directory"):
        read_archive(tmp_path)
