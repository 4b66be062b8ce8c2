"""convnext-serve weights."""

import json
from pathlib import Path

import pytest

from app import cli
from model.checkpoints.registry import registered_weights


def test_weights_list_shows_which_are_fetched_and_is_not_cut_off_in_a_pipe(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / registered_weights()["convnext_tiny"].file_name).touch()
    assert cli.main(["weights", "list", "--cache-dir", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name in registered_weights():
        [line] = [line for line in lines if f" {name} " in line]
        assert name not in ("convnext_tiny", "convnext_small") or ("yes" in line) == (name == "convnext_tiny")


def test_weights_show_describes_a_checkpoint(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tiny_path: Path
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    assert cli.main(["weights", "show", str(tiny_path)]) == 0
    out = capsys.readouterr().out
    for part in (str(tiny_path), "ConvNeXt V1", "1, 1, 2, 1", "float32", "resize to 36 and crop to 32 pixels"):
        assert part in out
    assert not any(python in out for python in ("[", "None", "Transform("))


def test_weights_verify_fails_if_they_have_not_been_fetched(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert cli.main(["weights", "verify", "convnext_tiny", "--cache-dir", str(tmp_path)]) == 1
    captured = capsys.readouterr()
    assert "convnext_tiny" in captured.err
    assert captured.out == ""


def test_weights_list_has_the_facts_of_the_embedded_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["weights", "list", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert set(rows) == set(registered_weights())
    embedded = rows["convnext_atto_tiny_imagenet_200"]
    assert embedded["fetched"]
    assert embedded["top1"] == pytest.approx(55, abs=1)
    assert embedded["licence"]


def test_weights_show_describes_registered_weights_before_they_are_fetched(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert cli.main(["weights", "show", "convnext_tiny", "--json", "--cache-dir", str(tmp_path)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["name"], found["fetched"], found["depths"]) == ("convnext_tiny", False, [3, 3, 9, 3])
    assert len(found["labels"]) == 1000
    assert "236" in found["preprocessing"]
