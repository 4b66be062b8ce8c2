"""convnext-serve predict and weights; serve is in test_server."""

import json
from pathlib import Path
from typing import Protocol

import pytest
from PIL import Image

from app import cli
from app.settings import Settings
from model import LoadedModel
from model.checkpoints.registry import registered_weights
from tests.conftest import Encode, MakePhoto

LABELS = {"ant", "bee", "cat", "dog", "eel"}


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
    results = json.loads(out)
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
    predict: Predict, photos: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = tmp_path / "words [bold].txt"
    words.write_text("words")
    absent = str(tmp_path / "absent.jpg")
    code, out, _ = predict(photos[0], str(words), absent, photos[1], "--json")
    assert code == 1
    results = json.loads(out)
    assert ["error" in result for result in results] == [False, True, True, False]
    assert "JPEG, PNG" in results[1]["error"]
    assert absent in results[2]["error"]
    monkeypatch.setenv("COLUMNS", "300")
    code, out, _ = predict(photos[0], str(words))
    assert code == 1
    assert "words [bold].txt" in out


def test_predict_rejects_images_over_the_pixel_limit(predict: Predict, photos: list[str]) -> None:
    code, out, _ = predict(photos[0], "--json", "--max-image-pixels", "99")
    assert code == 1
    assert "90×70" in json.loads(out)[0]["error"]


def test_top_k_is_at_most_the_number_of_labels(predict: Predict, photos: list[str]) -> None:
    _, out, _ = predict(photos[0], "--json", "--top-k", "50")
    assert {item["label"] for item in json.loads(out)[0]["predictions"]} == LABELS


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
    assert "CONVNEXT_TOPK" in capsys.readouterr().err


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
    for name in Settings.model_fields:
        assert f"--{name.replace('_', '-')}" in out


def test_options_take_precedence_over_the_environment(
    monkeypatch: pytest.MonkeyPatch, predict: Predict, photos: list[str]
) -> None:
    monkeypatch.setenv("CONVNEXT_TOP_K", "1")
    assert len(json.loads(predict(photos[0], "--json")[1])[0]["predictions"]) == 1
    assert len(json.loads(predict(photos[0], "--json", "--top-k", "4")[1])[0]["predictions"]) == 4


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
