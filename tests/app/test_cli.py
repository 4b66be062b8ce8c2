"""convnext-serve predict and weights; serve is in test_server."""

import json

import pytest
from PIL import Image

from app import cli
from app.settings import Settings
from model.checkpoints.registry import registered_weights

LABELS = {"ant", "bee", "cat", "dog", "eel"}


@pytest.fixture
def photos(tmp_path, make_photo, encode) -> list[str]:
    """Three image files."""
    paths = [tmp_path / f"photo{seed}.jpg" for seed in range(3)]
    for seed, path in enumerate(paths):
        path.write_bytes(encode(make_photo(90, 70, seed), "JPEG"))
    return [str(path) for path in paths]


@pytest.fixture
def predict(tiny_path, capsys):
    """``predict(*arguments)``: the exit code, standard output and error of the command with the tiny model."""

    def run(*arguments: str) -> tuple[int, str, str]:
        code = cli.main(["predict", "--model", str(tiny_path), "--device", "cpu", "--max-batch-size", "2", *arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def test_predict_prints_json_that_agrees_with_the_network(predict, photos, tiny_model):
    code, out, err = predict(*photos, "--json")
    assert (code, err) == (0, "")
    results = json.loads(out)
    assert [result["file"] for result in results] == photos
    for result in results:
        tensor = tiny_model.transform(Image.open(result["file"]))[None]
        probabilities = tiny_model.network(tensor).softmax(1)[0]
        assert [one["class_id"] for one in result["predictions"]] == probabilities.argsort(descending=True).tolist()
        for one in result["predictions"]:
            assert one["label"] == tiny_model.labels[one["class_id"]]
            assert one["probability"] == pytest.approx(probabilities[one["class_id"]].item(), abs=1e-5)


def test_predict_prints_a_table(predict, photos):
    code, out, _ = predict(photos[0], "--top-k", "2")
    assert code == 0
    assert sum(label in out for label in LABELS) == 2
    assert out.count("%") == 2


def test_one_bad_file_fails_alone(predict, photos, tmp_path, monkeypatch):
    words = tmp_path / "words [bold].txt"
    words.write_text("words")
    code, out, _ = predict(photos[0], str(words), str(tmp_path / "absent.jpg"), photos[1], "--json")
    assert code == 1
    results = json.loads(out)
    assert ["error" in result for result in results] == [False, True, True, False]
    assert "accepted image formats" in results[1]["error"]
    assert "No such file" in results[2]["error"]
    monkeypatch.setenv("COLUMNS", "300")
    code, out, _ = predict(photos[0], str(words))
    assert code == 1
    assert "words [bold].txt" in out


def test_limits_hold_for_files_too(predict, photos):
    code, out, _ = predict(photos[0], "--json", "--max-image-pixels", "99")
    assert code == 1
    assert "90×70" in json.loads(out)[0]["error"]


def test_top_k_is_never_more_than_there_are(predict, photos):
    _, out, _ = predict(photos[0], "--json", "--top-k", "50")
    assert {one["label"] for one in json.loads(out)[0]["predictions"]} == LABELS


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["predict", "--model", "convnext_tinny", "x.jpg"], 1, "convnext_tiny"),
        (["predict", "--model", "/nowhere/at/all.pth", "x.jpg"], 1, "/nowhere/at/all.pth"),
        (["predict", "--device", "tpu", "x.jpg"], 2, "CONVNEXT_DEVICE"),
        (["predict", "--top-k", "five", "x.jpg"], 2, "CONVNEXT_TOP_K"),
        (["serve", "--port", "70000"], 2, "CONVNEXT_PORT"),
        (["weights", "verify", "nothing"], 1, "nothing is not a registered model"),
        (["weights", "show", "/nowhere.pth"], 1, "/nowhere.pth"),
    ],
)
def test_what_goes_wrong_is_named_without_a_traceback(capsys, arguments, code, message):
    assert cli.main(arguments) == code
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.startswith("convnext-serve: ")
    assert "Traceback" not in captured.err
    assert captured.out == ""


def test_a_device_that_is_not_there_is_named(capsys, tiny_path):
    assert cli.main(["predict", "--model", str(tiny_path), "--device", "cuda:77", "x.jpg"]) == 1
    assert "cuda:77" in capsys.readouterr().err


def test_a_misspelt_variable_is_named(capsys, monkeypatch):
    monkeypatch.setenv("CONVNEXT_TOPK", "3")
    assert cli.main(["weights", "list"]) == 2
    assert "CONVNEXT_TOPK" in capsys.readouterr().err


def test_what_a_misspelt_variable_holds_is_not_shown(capsys, monkeypatch):
    monkeypatch.setenv("CONVNEXT_API_KEY", "topsecret")  # API_KEYS is the name
    assert cli.main(["serve"]) == 2
    said = capsys.readouterr().err
    assert "CONVNEXT_API_KEY" in said
    assert "topsecret" not in said


@pytest.mark.parametrize(
    "arguments", [[], ["predict"], ["weights"], ["weights", "fetch"], ["serve", "--no-such"], ["sing"]]
)
def test_wrong_usage_ends_with_2(capsys, arguments):
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2
    assert "usage: convnext-serve" in capsys.readouterr().err


def test_every_setting_is_an_option_of_serve(capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["serve", "--help"])
    assert caught.value.code == 0
    out = capsys.readouterr().out
    for name in Settings.model_fields:
        assert f"--{name.replace('_', '-')}" in out


def test_options_come_before_the_environment(monkeypatch, predict, photos):
    monkeypatch.setenv("CONVNEXT_TOP_K", "1")
    assert len(json.loads(predict(photos[0], "--json")[1])[0]["predictions"]) == 1
    assert len(json.loads(predict(photos[0], "--json", "--top-k", "4")[1])[0]["predictions"]) == 4


def test_weights_are_listed(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("COLUMNS", "300")
    (tmp_path / registered_weights()["convnext_tiny"].file_name).touch()
    assert cli.main(["weights", "list", "--cache-dir", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name in registered_weights():
        [line] = [line for line in lines if f" {name} " in line]
        assert name not in ("convnext_tiny", "convnext_small") or ("yes" in line) == (name == "convnext_tiny")


def test_weights_are_shown(capsys, monkeypatch, tiny_path):
    monkeypatch.setenv("COLUMNS", "300")
    assert cli.main(["weights", "show", str(tiny_path)]) == 0
    out = capsys.readouterr().out
    for part in (str(tiny_path), "ConvNeXt V1 of its own size", "[1, 1, 2, 1]", "float32"):
        assert part in out


def test_weights_that_were_never_fetched_are_not_verified(capsys, tmp_path):
    assert cli.main(["weights", "verify", "convnext_tiny", "--cache-dir", str(tmp_path)]) == 1
    assert "has not been fetched" in capsys.readouterr().err
