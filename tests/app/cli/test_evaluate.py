"""convnext-serve evaluate."""

import csv
import shutil
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image

from app import cli
from app.cli.evaluate import match_labels
from model import LoadedModel


@pytest.fixture
def top_labels(photos: list[str], tiny_model: LoadedModel) -> list[str]:
    """What the network says of each photo."""
    tensors = [tiny_model.transform(Image.open(photo))[None] for photo in photos]
    return [tiny_model.labels[int(tiny_model.network(tensor).argmax())] for tensor in tensors]


def run(model: Path, *arguments: str) -> int:
    return cli.main(["evaluate", "--model", str(model), "--device", "cpu", *arguments])


def test_photos_in_folders_of_their_classes(
    tmp_path: Path, tiny_path: Path, photos: list[str], top_labels: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    root, output = tmp_path / "root", tmp_path / "photos.csv"
    wrong = "ant" if top_labels[2] != "ant" else "bee"
    for photo, label in zip(photos, [*top_labels[:2], wrong], strict=True):
        (root / label.upper()).mkdir(parents=True, exist_ok=True)
        shutil.copy(photo, root / label.upper())
    (root / "zebra").mkdir()
    shutil.copy(photos[0], root / "zebra")
    assert run(tiny_path, str(root), "--output", str(output)) == 0
    captured = capsys.readouterr()
    assert "top-1 66.67%" in captured.out
    assert "zebra" in captured.err
    rows = list(csv.DictReader(output.open()))
    assert len(rows) == 3
    assert sum(row["label"] != row["predicted"] for row in rows) == 1


def test_an_output_that_cannot_be_written_is_reported_before_the_evaluation(
    tmp_path: Path, photos: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "photos.csv").write_text(f"{photos[0]},ant")
    output = tmp_path / "missing" / "results.csv"
    assert run(tmp_path / "never loaded.pth", str(tmp_path / "photos.csv"), "--output", str(output)) == 1
    assert str(output) in capsys.readouterr().err


def test_photos_of_a_csv_file(
    tmp_path: Path, tiny_path: Path, photos: list[str], top_labels: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [f"{Path(photo).name},{label}" for photo, label in zip(photos, top_labels, strict=True)]
    (tmp_path / "photos.csv").write_text("\n".join(["file,label", *rows]))
    assert run(tiny_path, str(tmp_path / "photos.csv")) == 0
    assert "top-1 100.00%" in capsys.readouterr().out


def test_precision_and_recall_of_independent_classes(
    tmp_path: Path, tiny_path: Path, photos: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "photos.csv").write_text("\n".join(f"{photo},ant" for photo in photos))
    assert run(tiny_path, str(tmp_path / "photos.csv"), "--activation", "sigmoid") == 0
    out = capsys.readouterr().out
    assert "ant (3)" in out
    assert "bee (0)" in out


def test_photos_without_the_label_of_a_binary_model_are_negatives(
    tmp_path: Path, photos: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    network = timm.create_model("convnext_atto", depths=(1, 1, 1, 1), dims=(8, 12, 16, 24), num_classes=1)
    tensors = network.state_dict()
    tensors |= {"head.fc.weight": torch.zeros(1, 24), "head.fc.bias": torch.ones(1)}  # ant, whatever the photo
    torch.save(tensors, tmp_path / "binary.pth")
    (tmp_path / "labels.txt").write_text("ant")
    (tmp_path / "photos.csv").write_text(
        "\n".join(f"{photo},{name}" for photo, name in zip(photos, ("ant", "bee", "owl"), strict=True))
    )
    arguments = ("--labels", str(tmp_path / "labels.txt"), "--output", str(tmp_path / "output.csv"))
    assert run(tmp_path / "binary.pth", str(tmp_path / "photos.csv"), *arguments) == 0
    captured = capsys.readouterr()
    assert " 33.33% 100.00%  ant (1)" in captured.out
    assert "not ant" in captured.err
    assert [row["label"] for row in csv.DictReader((tmp_path / "output.csv").open())] == ["ant", "", ""]


def test_a_photo_that_cannot_be_decoded_is_an_error(
    tmp_path: Path, tiny_path: Path, photos: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "words.jpg").write_text("words")
    (tmp_path / "photos.csv").write_text(f"{photos[0]},ant\nwords.jpg,bee\n")
    assert run(tiny_path, str(tmp_path / "photos.csv")) == 1
    captured = capsys.readouterr()
    assert "words.jpg" in captured.err
    assert captured.out.startswith("photos: 1\n")


def test_a_folder_without_a_known_class_is_an_error(tmp_path: Path, tiny_path: Path) -> None:
    (tmp_path / "root").mkdir()
    assert run(tiny_path, str(tmp_path / "root")) == 1


def test_names_match_labels_without_case_and_underscores() -> None:
    labels = ("Great Grey Owl", "tabby, tabby cat", "crane", "crane")
    assert match_labels(["great_grey_owl", "tabby", "crane", "zebra"], labels) == {"great_grey_owl": 0, "tabby": 1}
