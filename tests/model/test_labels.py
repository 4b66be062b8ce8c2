import json
from pathlib import Path

import pytest
from torchvision.models import ConvNeXt_Tiny_Weights

from model.errors import CheckpointError
from model.labels import label_set, label_sets, read_labels


def test_imagenet_labels_are_those_of_torchvision_in_order() -> None:
    assert list(label_set("imagenet_1k")) == ConvNeXt_Tiny_Weights.DEFAULT.meta["categories"]


def test_rejects_an_unknown_label_set() -> None:
    assert "imagenet_1k" in label_sets()
    with pytest.raises(KeyError):
        label_set("imagenet_2k")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("labels.txt", "cat\ndog, hot\nüber\n"),
        ("labels.txt", "\ufeffcat\r\ndog, hot\r\nüber\r\n\r\n"),
        ("labels.json", json.dumps(["cat", "dog, hot", "über"])),
        ("labels.json", json.dumps({"2": "über", "0": "cat", "1": "dog, hot"})),
        ("labels.json", json.dumps({"über": 2, "cat": 0, "dog, hot": 1})),
        ("labels", json.dumps(["cat", "dog, hot", "über"])),
    ],
)
def test_reads_labels_in_every_format(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    assert read_labels(tmp_path / name) == ("cat", "dog, hot", "über")


@pytest.mark.parametrize(
    ("name", "content", "value"),
    [
        ("labels.txt", b"", "no labels"),
        ("labels.txt", b"cat\n\ndog", "class 1 .* ''"),
        ("labels.txt", b"\xff\xfe", "utf-8"),
        ("labels.json", b"[", "JSON"),
        ("labels.json", b"[" * 100_000, "JSON"),
        ("labels.json", b"3", "int"),
        ("labels.json", b'["cat", 3]', "class 1 .* 3"),
        ("labels.json", rb'["cat", "\ud800"]', r"class 1 .* '\\ud800'"),
        ("labels.json", b'{"0": "cat", "2": "dog"}', "class 1"),
        ("labels.json", b'{"cat": 0, "dog": 0}', "class 1"),
        ("labels.json", b'{"0": 1, "1": 0}', "labels"),  # ambiguous
        ("labels.csv", b"0,1\n1,0\n", "labels"),  # ambiguous
        ("labels.csv", b"0,cat\n2,dog\n", "labels"),
        ("labels.csv", b"a,b,c\n", "labels"),
        ("labels.txt", b"1 dog\n0 cat\n", "numbered"),
        ("labels.txt", b"dog: 2\ncat: 1\n", "numbered"),
        ("labels.txt", b"1. dog\n0. cat\n", "numbered"),
        ("labels.txt", b"2) dog\n1) cat\n", "numbered"),
        ("labels.txt", b"#1 dog\n#0 cat\n", "numbered"),
        ("labels.txt", b"dog (1)\ncat (0)\n", "numbered"),
        ("labels.yaml", b"- cat\n- dog\n", "CSV"),
    ],
    ids=range(21),
)
def test_rejects_invalid_labels(tmp_path: Path, name: str, content: bytes, value: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=value):
        read_labels(tmp_path / name)


def test_rejects_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"absent\.txt"):
        read_labels(tmp_path / "absent.txt")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("labels.json", '{"id2label": {"0": "cat", "1": "dog"}, "model_type": "convnext"}'),
        ("labels.json", '{"0": ["n01", "cat"], "1": ["n02", "dog"]}'),
        ("labels.json", '{"class_to_idx": {"dog": 1, "cat": 0}}'),
        ("labels.json", '{"idx_to_class": {"1": "dog", "0": "cat"}}'),
        ("labels.json", '{"label2idx": {"dog": 1, "cat": 0}}'),
        ("labels.txt", "0\tcat\n1\tdog\n"),
        ("labels.txt", "1: dog\n0: cat\n"),
        ("labels.csv", "cat\ndog\n"),
        ("labels.csv", "name\ncat\ndog\n"),
        ("labels.csv", "index,name\n1,dog\n0,cat\n"),
        ("labels.csv", "cat,0\ndog,1\n"),
        ("labels.csv", "index;name\n1;dog\n0;cat\n"),
        ("labels.tsv", "name\tindex\ndog\t1\ncat\t0\n"),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_reads_labels_of_every_form(tmp_path: Path, name: str, content: str, encoding: str) -> None:
    (tmp_path / name).write_text(content, encoding=encoding)
    assert read_labels(tmp_path / name) == ("cat", "dog")


@pytest.mark.parametrize("key", ["class_to_idx", "label2id"])
def test_a_key_says_that_numbers_are_names(tmp_path: Path, key: str) -> None:
    """The order of ``torchvision.datasets.ImageFolder``."""
    names = sorted(str(number) for number in range(11))
    content = {key: {name: index for index, name in enumerate(names)}}
    (tmp_path / "labels.json").write_text(json.dumps(content))
    assert read_labels(tmp_path / "labels.json") == tuple(names)


@pytest.mark.parametrize("key", ["idx_to_class", "id2label"])
def test_a_key_says_that_numbers_are_indices(tmp_path: Path, key: str) -> None:
    (tmp_path / "labels.json").write_text(json.dumps({key: {"0": 2, "1": 0, "2": 1}}))
    assert read_labels(tmp_path / "labels.json") == ("2", "0", "1")


def test_names_may_be_numbers(tmp_path: Path) -> None:
    (tmp_path / "folders.json").write_text('{"0": 0, "1": 1, "10": 2}')
    assert read_labels(tmp_path / "folders.json") == ("0", "1", "10")
    (tmp_path / "ids.json").write_text('{"0": 5, "1": 7}')
    assert read_labels(tmp_path / "ids.json") == ("5", "7")


@pytest.mark.parametrize(
    "lines",
    [("0 stars", "1 star"), ("1", "0"), ("50 cent", "2 euro"), ("1.5 l", "0.5 l"), ("0,5 l", "1,5 l"), ("2x", "1x")],
)
def test_labels_may_begin_with_numbers(tmp_path: Path, lines: tuple[str, ...]) -> None:
    (tmp_path / "labels.txt").write_text("\n".join(lines))
    assert read_labels(tmp_path / "labels.txt") == lines
