"""convnext-serve predict and weights; serve is in test_server."""

import json
import os
import signal
import socket
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, Protocol, get_args, get_origin

import pytest
from PIL import Image

from app import cli
from app.settings import Settings
from model import LoadedModel
from model.checkpoints.registry import registered_weights
from tests.conftest import Encode, MakePhoto

LABELS = {"ant", "bee", "cat", "dog", "eel"}


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
        code = cli.main(["predict", "--model", str(tiny_path), "--device", "cpu", "--max-batch-size", "2", *arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def test_predict_prints_the_probabilities_of_the_network_as_json(
    predict: Predict, photos: list[str], tiny_model: LoadedModel
) -> None:
    code, out, err = predict(*photos, "--json")
    assert (code, err) == (0, "")
    results = lines(out)
    assert [result["file"] for result in results] == photos
    for result in results:
        tensor = tiny_model.transform(Image.open(result["file"]))[None]
        probabilities = tiny_model.network(tensor).softmax(1)[0]
        assert [item["class_id"] for item in result["predictions"]] == probabilities.argsort(descending=True).tolist()
        for item in result["predictions"]:
            assert item["label"] == tiny_model.labels[item["class_id"]]
            assert item["probability"] == pytest.approx(probabilities[item["class_id"]].item(), abs=1e-5)


def test_predict_prints_a_table(predict: Predict, photos: list[str]) -> None:
    code, out, _ = predict(photos[0], "--top-k", "2")
    assert code == 0
    assert sum(label in out for label in LABELS) == 2
    assert out.count("%") == 2


def test_a_file_that_is_no_image_does_not_affect_the_others(
    predict: Predict, photos: list[str], tmp_path: Path
) -> None:
    words = tmp_path / "words [bold].txt"
    words.write_text("words")
    absent = str(tmp_path / "absent.jpg")
    for options in ([], ["--json"]):
        code, out, err = predict(photos[0], str(words), absent, photos[1], *options)
        assert code == 1
        assert str(words) not in out
        assert f"{words}: The file is in none" in err
        assert absent in err
    assert [result["file"] for result in lines(out)] == photos[:2]


def test_predict_rejects_images_over_the_pixel_limit(predict: Predict, photos: list[str]) -> None:
    code, out, err = predict(photos[0], "--json", "--max-image-pixels", "99")
    assert (code, out) == (1, "")
    assert "90×70" in err


def test_folders_are_searched_for_images(predict: Predict, photos: list[str], tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("words")
    (tmp_path / "below").mkdir()
    below = Path(photos[0]).rename(tmp_path / "below" / "moved.JPG")
    code, out, err = predict(str(tmp_path), "--json")
    assert (code, err) == (0, "")
    assert [result["file"] for result in lines(out)] == [str(below), *photos[1:]]


def test_names_on_standard_input_are_classified_as_they_arrive(tiny_path: Path, photos: list[str]) -> None:
    command = [sys.executable, "-m", "app", "predict", "--model", str(tiny_path), "--json", "-"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for photo in photos:  # the next name is sent only after the result of the last one
            process.stdin.write(f"{photo}\n")
            process.stdin.flush()
            assert json.loads(process.stdout.readline())["file"] == photo
        process.stdin.close()
        assert process.wait(60) == 0


def test_ctrl_c_keeps_what_was_written_and_prints_no_traceback(
    tiny_path: Path, photos: list[str], tmp_path: Path
) -> None:
    output = tmp_path / "results.jsonl"
    command = [sys.executable, "-m", "app", "predict", "--model", str(tiny_path), "--output", str(output), "-"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        process.stdin.write(f"{photos[0]}\nabsent.jpg\n")
        process.stdin.flush()
        assert "absent.jpg" in process.stderr.readline()  # the second name is processed, so the first one is written
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        assert "Traceback" not in process.stderr.read()
    assert [result["file"] for result in lines(output.read_text())] == photos[:1]


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_output_resumes_after_an_incomplete_last_result(
    predict: Predict, photos: list[str], tmp_path: Path, suffix: str
) -> None:
    output = tmp_path / f"results{suffix}"
    arguments = ["--output", str(output), "--top-k", "2"]
    assert predict(*photos, *arguments)[:2] == (0, "")
    complete = output.read_text()
    for cut in (1, 25, 120):
        output.write_text(complete[:-cut])
        assert predict(*photos, *arguments)[0] == 0
        assert output.read_text() == complete
    assert predict(*photos, *arguments)[0] == 0
    assert output.read_text() == complete


@pytest.mark.parametrize(
    ("name", "content"), [("results.txt", ""), ("results.jsonl", "[1]\n"), ("results.csv", "a\nb\n")]
)
def test_a_file_of_something_else_is_not_appended_to(
    predict: Predict, photos: list[str], tmp_path: Path, name: str, content: str
) -> None:
    output = tmp_path / name
    output.write_text(content)
    code, _, err = predict(photos[0], "--output", str(output))
    assert code == 2
    assert name in err
    assert output.read_text() == content


def test_top_k_is_at_most_the_number_of_labels(predict: Predict, photos: list[str]) -> None:
    _, out, _ = predict(photos[0], "--json", "--top-k", "50")
    assert {item["label"] for item in lines(out)[0]["predictions"]} == LABELS


@pytest.mark.parametrize(
    ("arguments", "code", "cause"),
    [
        (["predict", "--model", "convnext_tinny", "x.jpg"], 1, "convnext_tiny"),
        (["predict", "--model", "/nowhere/at/all.pth", "x.jpg"], 1, "/nowhere/at/all.pth"),
        (["predict", "--device", "tpu", "x.jpg"], 2, "CONVNEXT_DEVICE"),
        (["predict", "--top-k", "five", "x.jpg"], 2, "CONVNEXT_TOP_K"),
        (["serve", "--port", "70000"], 2, "CONVNEXT_PORT"),
        (["weights", "verify", "nothing"], 1, "nothing"),
        (["weights", "show", "/nowhere.pth"], 1, "/nowhere.pth"),
    ],
)
def test_errors_name_their_cause_without_a_traceback(
    capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, cause: str
) -> None:
    assert cli.main(arguments) == code
    captured = capsys.readouterr()
    assert cause in captured.err
    assert captured.err.startswith("convnext-serve: ")
    assert "Traceback" not in captured.err
    assert captured.out == ""


def test_names_a_device_that_is_not_available(capsys: pytest.CaptureFixture[str], tiny_path: Path) -> None:
    assert cli.main(["predict", "--model", str(tiny_path), "--device", "cuda:77", "x.jpg"]) == 1
    assert "cuda:77" in capsys.readouterr().err


def test_names_an_unknown_environment_variable(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONVNEXT_TOPK", "3")
    assert cli.main(["weights", "list"]) == 2
    err = capsys.readouterr().err
    assert "CONVNEXT_TOPK" in err
    assert "CONVNEXT_TOP_K" in err


def test_does_not_print_the_value_of_an_unknown_environment_variable(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONVNEXT_API_KEY", "topsecret")  # API_KEYS is the name
    assert cli.main(["serve"]) == 2
    error = capsys.readouterr().err
    assert "CONVNEXT_API_KEY" in error
    assert "topsecret" not in error


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


def test_weights_list_shows_which_are_fetched(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
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
    for part in (str(tiny_path), "ConvNeXt V1", "[1, 1, 2, 1]", "float32"):
        assert part in out


def test_weights_verify_fails_if_they_have_not_been_fetched(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert cli.main(["weights", "verify", "convnext_tiny", "--cache-dir", str(tmp_path)]) == 1
    captured = capsys.readouterr()
    assert "convnext_tiny" in captured.err
    assert captured.out == ""


def test_weights_list_is_not_cut_off_in_a_pipe_and_has_the_facts_of_the_embedded_model(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(["weights", "list", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert set(rows) == set(registered_weights())
    embedded = rows["convnext_atto_tiny_imagenet_200"]
    assert embedded["fetched"]
    assert embedded["top1"] == pytest.approx(49, abs=1)
    assert embedded["licence"]
    assert cli.main(["weights", "list"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in rows)


def test_weights_show_describes_registered_weights_before_they_are_fetched(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert cli.main(["weights", "show", "convnext_tiny", "--json", "--cache-dir", str(tmp_path)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["name"], found["fetched"], found["depths"]) == ("convnext_tiny", False, [3, 3, 9, 3])
    assert len(found["labels"]) == 1000
    assert "236" in found["preprocessing"]


def test_an_occupied_port_and_an_unknown_host_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as occupied:
        port = occupied.getsockname()[1]
        assert cli.main(["serve", "--port", str(port)]) == 1
        assert f"127.0.0.1:{port}" in capsys.readouterr().err
    assert cli.main(["serve", "--host", "no-such-host.invalid"]) == 1
    assert "no-such-host.invalid" in capsys.readouterr().err


def test_the_choices_of_a_setting_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["serve", "--device", "gpu"]) == 2
    assert "cuda" in capsys.readouterr().err


def test_the_version_is_printed_without_loading_torch() -> None:
    command = [sys.executable, "-X", "importtime", "-m", "app", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == version("convnext-serve")
    assert " torch" not in done.stderr


def test_the_console_need_not_be_utf_8(tiny_path: Path, photos: list[str]) -> None:
    photo = Path(photos[0]).rename(Path(photos[0]).with_name("größe.jpg"))
    command = [sys.executable, "-m", "app", "predict", "--model", str(tiny_path), "fehlt ä.jpg", "-"]
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    names = f"{photo}\n".encode()
    done = subprocess.run(command, input=names, capture_output=True, env=environment, check=False, timeout=60)
    assert done.returncode == 1
    assert b"gr\\xf6\\xdfe.jpg" in done.stdout
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_output_resumes_with_line_breaks_in_file_names(
    predict: Predict, photos: list[str], tmp_path: Path, suffix: str
) -> None:
    named = [
        str(Path(photo).rename(tmp_path / name))
        for photo, name in zip(photos, ("a\n1.jpg", "b\u2028.jpg", "c\r\n.jpg"), strict=True)
    ]
    output = tmp_path / f"results{suffix}"
    arguments = ["--output", str(output), "--top-k", "2"]
    assert predict(*named, *arguments)[:2] == (0, "")
    complete = output.read_bytes()
    for cut in (1, 40, 70):
        output.write_bytes(complete[:-cut])
        assert predict(*named, *arguments)[0] == 0
        assert output.read_bytes() == complete


def test_a_complete_file_stays_as_it_is_with_fewer_classes_than_top_k(
    predict: Predict, photos: list[str], tmp_path: Path
) -> None:
    output = tmp_path / "results.csv"
    assert predict(*photos, "--output", str(output), "--top-k", "50")[0] == 0
    before = output.stat().st_mtime_ns
    assert predict(*photos, "--output", str(output), "--top-k", "50")[0] == 0
    assert output.stat().st_mtime_ns == before
