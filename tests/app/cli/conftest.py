"""Fixtures for the tests of the command."""

import json
from pathlib import Path
from typing import Any, Protocol

import pytest

from app import cli
from tests.conftest import Encode, MakePhoto


def lines(text: str) -> list[Any]:  # Any: JSON
    """The values of JSON Lines."""
    return [json.loads(line) for line in text.splitlines()]


class Predict(Protocol):
    """Runs the predict command; returns its exit code, standard output and standard error."""

    def __call__(self, *arguments: str) -> tuple[int, str, str]: ...


@pytest.fixture
def photos(tmp_path: Path, make_photo: MakePhoto, encode: Encode) -> list[str]:
    """Paths of three images."""
    paths = [tmp_path / f"photo{seed}.jpg" for seed in range(3)]
    for seed, path in enumerate(paths):
        path.write_bytes(encode(make_photo(90, 70, seed), "JPEG"))
    return [str(path) for path in paths]


@pytest.fixture
def predict(tiny_path: Path, capsys: pytest.CaptureFixture[str]) -> Predict:
    """``predict(*arguments)`` runs the command with the tiny model."""

    def run(*arguments: str) -> tuple[int, str, str]:
        # In a precision that does not depend on the load of the machine.
        options = ["--model", str(tiny_path), "--device", "cpu", "--precision", "float32", "--max-batch-size", "2"]
        code = cli.main(["predict", *options, *arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run
