"""convnext-serve predict."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from model import LoadedModel
from tests.app.cli.conftest import Predict, lines

LABELS = {"ant", "bee", "cat", "dog", "eel"}


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
        assert f"{words}: " in err
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


def test_top_k_is_at_most_the_number_of_labels(predict: Predict, photos: list[str]) -> None:
    _, out, _ = predict(photos[0], "--json", "--top-k", "50")
    assert {item["label"] for item in lines(out)[0]["predictions"]} == LABELS


def test_the_console_need_not_be_utf_8(tiny_path: Path, photos: list[str]) -> None:
    photo = Path(photos[0]).rename(Path(photos[0]).with_name("größe.jpg"))
    command = [sys.executable, "-m", "app", "predict", "--model", str(tiny_path), "fehlt ä.jpg", "-"]
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    names = f"{photo}\n".encode()
    done = subprocess.run(command, input=names, capture_output=True, env=environment, check=False, timeout=60)
    assert done.returncode == 1
    assert b"gr\\xf6\\xdfe.jpg" in done.stdout
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("suffix", [".HEIC", ".jfif"])
def test_folders_are_searched_for_the_images_of_phones_and_browsers(
    predict: Predict, photos: list[str], tmp_path: Path, suffix: str
) -> None:
    (tmp_path / "below").mkdir()
    moved = Path(photos[0]).rename(tmp_path / "below" / f"photo{suffix}")
    code, out, _ = predict(str(tmp_path / "below"), "--json")
    assert (code, [row["file"] for row in lines(out)]) == (0, [str(moved)])


def test_a_folder_without_images_is_an_error(predict: Predict, photos: list[str], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    code, out, err = predict(str(tmp_path / "empty"), photos[0], "--json")
    assert code == 1
    assert "empty: " in err
    assert [result["file"] for result in lines(out)] == photos[:1]


def test_a_reader_that_stops_ends_the_command_without_an_error_message(tiny_path: Path, photos: list[str]) -> None:
    command = [sys.executable, "-m", "app", "predict", "--model", str(tiny_path), "-"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        process.stdin.write(f"{photos[0]}\n".encode())
        process.stdin.close()
        assert process.wait(60) == 141
        assert process.stderr.read() == b""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has a folder that even root cannot write to")
@pytest.mark.parametrize("name", ["TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"])
def test_a_cache_of_kernels_that_cannot_be_written_is_ignored(tiny_path: Path, photos: list[str], name: str) -> None:
    command = [sys.executable, "-m", "app", "predict", "--model", str(tiny_path), "--device", "cpu", photos[0]]
    environment = os.environ | {name: "/sys/kernels"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=60)
    assert name in done.stderr
    assert photos[0] in done.stdout
