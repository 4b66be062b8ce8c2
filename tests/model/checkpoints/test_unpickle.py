"""Pickles that would execute code are not, and objects that are not needed do not prevent loading."""

import collections
import functools
import importlib
import operator
import os
import runpy
import subprocess
import timeit
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from model.checkpoints.state_dict_file import read_state_dict
from model.errors import CheckpointError

WEIGHTS = {"stem.0.weight": torch.zeros(2)}


class Call:
    """Pickled as a call of ``function``."""

    def __init__(self, function: Callable[..., Any], *arguments: object) -> None:  # Any: whatever it returns
        self._call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[object, ...]]:  # Any: as above
        return self._call


class Items(list[int]):
    """A list of a class that the service does not have."""


def save(path: Path, extra: object, *, zipped: bool) -> Path:
    torch.save({"state_dict": WEIGHTS, "extra": extra}, path, _use_new_zipfile_serialization=zipped)
    return path


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    "function",
    [
        *(os.system, eval, exec, importlib.import_module, operator.attrgetter, runpy.run_path),
        *(timeit.timeit, torch.load, torch.hub.load, torch.jit.load, torch.storage._load_from_bytes),  # noqa: SLF001
    ],
)
def test_rejects_functions_that_could_execute_code(
    tmp_path: Path, function: Callable[..., object], zipped: bool
) -> None:
    marker = tmp_path / "executed"
    path = save(tmp_path / "mine.pth", Call(function, f"open({str(marker)!r}, 'w')"), zipped=zipped)
    with pytest.raises(CheckpointError, match="could execute code"):
        read_state_dict(path)
    assert not marker.exists()


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("function", [subprocess.Popen, np.load, functools.partial])
def test_does_not_call_what_it_skips(tmp_path: Path, function: Callable[..., object], zipped: bool) -> None:
    """Python pickles ``subprocess.Popen`` under the name that it had in Python 2."""
    marker = tmp_path / "executed"
    path = save(tmp_path / "mine.pth", Call(function, ["touch", str(marker)]), zipped=zipped)
    assert list(read_state_dict(path).tensors) == ["state_dict.stem.0.weight"]
    assert not marker.exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_skips_objects_that_are_not_needed(tmp_path: Path, zipped: bool) -> None:
    extra: list[object] = [collections.defaultdict(list, a=[1]), collections.deque([1]), Items([1, 2])]
    extra += [np.array(["a", None], object), int, str, range(3), slice(1), Any]
    path = save(tmp_path / "mine.pth", extra, zipped=zipped)
    assert list(read_state_dict(path).tensors) == ["state_dict.stem.0.weight"]


@pytest.mark.parametrize("zipped", [True, False])
def test_skips_the_losses_and_optimizers_among_hyperparameters(tmp_path: Path, zipped: bool) -> None:
    optimizer = functools.partial(torch.optim.AdamW, lr=0.1)
    extra = {"loss": nn.CrossEntropyLoss(torch.ones(2)), "optimizer": optimizer, "net": nn.Linear(2, 2)}
    path = save(tmp_path / "mine.pth", extra, zipped=zipped)
    assert list(read_state_dict(path).tensors) == ["state_dict.stem.0.weight"]


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("wrap", [lambda network: network, lambda network: {"epoch": 1, "model": network}], ids=[0, 1])
def test_names_the_class_of_a_pickled_network(tmp_path: Path, zipped: bool, wrap: Callable[..., object]) -> None:
    network = wrap(torchvision.models.AlexNet())
    torch.save(network, tmp_path / "mine.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=r"torchvision\.models\.alexnet\.AlexNet"):
        read_state_dict(tmp_path / "mine.pth")
