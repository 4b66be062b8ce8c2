import json

import pytest
from torchvision.models import ConvNeXt_Tiny_Weights

from model.errors import CheckpointError
from model.labels import label_set, label_sets, read_labels


def test_imagenet_names_are_torchvisions_in_order():
    assert list(label_set("imagenet_1k")) == ConvNeXt_Tiny_Weights.DEFAULT.meta["categories"]


def test_unknown_set():
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
def test_every_way_to_write_the_same_labels(tmp_path, name, content):
    (tmp_path / name).write_text(content, encoding="utf-8")
    assert read_labels(tmp_path / name) == ("cat", "dog, hot", "über")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("labels.txt", b"", "no labels"),
        ("labels.txt", b"cat\n\ndog", "class 1 is ''"),
        ("labels.txt", b"\xff\xfe", "cannot be read"),
        ("labels.json", b"[", "not valid JSON"),
        ("labels.json", b"3", "list or an object"),
        ("labels.json", b'["cat", 3]', "class 1 is 3"),
        ("labels.json", b'{"0": "cat", "2": "dog"}', "none for class 1"),
        ("labels.json", b'{"cat": 0, "dog": 0}', "none for class 1"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        read_labels(tmp_path / name)


def test_absent(tmp_path):
    with pytest.raises(CheckpointError, match=r"absent\.txt cannot be read"):
        read_labels(tmp_path / "absent.txt")
