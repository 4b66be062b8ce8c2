"""Options, settings and errors of the command."""

import re
import socket
import subprocess
import sys
from importlib.metadata import version
from typing import Literal, get_args, get_origin

import pytest

from app import cli
from app.settings import Settings
from tests.app.cli.conftest import Predict, lines


@pytest.mark.parametrize(
    ("arguments", "code", "cause"),
    [
        (["predict", "--model", "convnext_tinny", "x.jpg"], 1, "convnext_tiny"),
        (["predict", "--model", "/nowhere/at/all.pth", "x.jpg"], 1, "/nowhere/at/all.pth"),
        (["predict", "--device", "cuda:77", "x.jpg"], 1, "cuda:77"),
        (["predict", "--device", "tpu", "x.jpg"], 2, "CONVNEXT_DEVICE"),
        (["serve", "--device", "gpu"], 2, "cuda"),
        (["predict", "--top-k", "five", "x.jpg"], 2, "CONVNEXT_TOP_K"),
        (["serve", "--port", "70000"], 2, "CONVNEXT_PORT"),
        (["weights", "verify", "nothing"], 1, "nothing"),
        (["weights", "show", "/nowhere.pth"], 1, "/nowhere.pth"),
        (["weights", "fetch", "convnext_tinny"], 1, "convnext_tiny "),
        (["evaluate", "/nowhere/at/all"], 1, "/nowhere/at/all"),
        (["evaluate", "examples/coffee.jpg"], 1, "examples/coffee.jpg"),
        (["serve", "--port", "0", "--api-keys-file", "/nowhere.txt"], 1, "/nowhere.txt"),
        (["serve", "--root-path", "vision"], 2, "/vision"),
        (["serve", "--max-queue-size", "4", "--max-batch-size", "8"], 2, "CONVNEXT_MAX_BATCH_SIZE"),
    ],
)
def test_errors_name_their_cause_without_a_traceback(
    capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, cause: str
) -> None:
    assert cli.main(arguments) == code
    captured = capsys.readouterr()
    assert cause in captured.err
    assert captured.err.startswith("convnext-serve: ")
    assert captured.err.count("\n") == 1
    assert not any(noise in captured.err for noise in ("Traceback", "Errno", "Value error"))
    assert captured.out == ""


@pytest.mark.parametrize("command", [["weights", "list"], ["serve"]])
@pytest.mark.parametrize(("variable", "meant"), [("TOPK", "TOP_K"), ("API_KEY", "API_KEYS")])
def test_names_an_unknown_environment_variable_but_not_its_value(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
    meant: str,
    command: list[str],
) -> None:
    monkeypatch.setenv(f"CONVNEXT_{variable}", "topsecret")
    assert cli.main(command) == 2
    err = capsys.readouterr().err
    assert {f"CONVNEXT_{variable}", f"CONVNEXT_{meant}"} <= set(re.findall(r"\w+", err))
    assert "topsecret" not in err


@pytest.mark.parametrize(
    "arguments", [[], ["predict"], ["weights"], ["weights", "fetch"], ["serve", "--no-such"], ["sing"]]
)
def test_wrong_usage_ends_with_2(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2
    assert "usage: convnext-serve" in capsys.readouterr().err


def test_every_setting_is_an_option_of_serve(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["serve", "--help"])
    assert caught.value.code == 0
    out = capsys.readouterr().out
    for name, field in Settings.model_fields.items():
        assert f"--{name.replace('_', '-')}" in out
        if get_origin(field.annotation) is Literal:
            assert f"{{{','.join(get_args(field.annotation))}}}" in out


def test_options_take_precedence_over_the_environment(
    monkeypatch: pytest.MonkeyPatch, predict: Predict, photos: list[str]
) -> None:
    monkeypatch.setenv("CONVNEXT_TOP_K", "1")
    assert len(lines(predict(photos[0], "--json")[1])[0]["predictions"]) == 1
    assert len(lines(predict(photos[0], "--json", "--top-k", "4")[1])[0]["predictions"]) == 4


def test_the_version_is_printed_without_loading_torch() -> None:
    command = [sys.executable, "-X", "importtime", "-m", "app", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == version("convnext-serve")
    assert " torch" not in done.stderr


def test_an_occupied_port_and_an_unknown_host_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as occupied:
        port = occupied.getsockname()[1]
        assert cli.main(["serve", "--port", str(port)]) == 1
        assert f"127.0.0.1:{port}" in capsys.readouterr().err
    assert cli.main(["serve", "--host", "no-such-host.invalid"]) == 1
    assert "no-such-host.invalid" in capsys.readouterr().err
