"""convnext-serve predict --output."""

from pathlib import Path

import pytest

from tests.app.cli.conftest import Predict


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
@pytest.mark.parametrize("names", [("a.jpg", "b.jpg", "c.jpg"), ("a\n1.jpg", "b\u2028.jpg", "c\r\n.jpg")], ids=repr)
def test_output_resumes_after_an_incomplete_last_result(
    predict: Predict, photos: list[str], tmp_path: Path, suffix: str, names: tuple[str, ...]
) -> None:
    named = [str(Path(photo).rename(tmp_path / name)) for photo, name in zip(photos, names, strict=True)]
    output = tmp_path / f"results{suffix}"
    arguments = ["--output", str(output), "--top-k", "2"]
    assert predict(*named, *arguments)[:2] == (0, "")
    complete = output.read_bytes()
    for length in (len(complete) - cut for cut in (1, 25, 40, 70, 120, 0)):
        output.write_bytes(complete[:length])
        assert predict(*named, *arguments)[0] == 0
        assert output.read_bytes() == complete


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


def test_a_complete_file_stays_as_it_is_with_fewer_classes_than_top_k(
    predict: Predict, photos: list[str], tmp_path: Path
) -> None:
    output = tmp_path / "results.csv"
    assert predict(*photos, "--output", str(output), "--top-k", "50")[0] == 0
    before = output.stat().st_mtime_ns
    assert predict(*photos, "--output", str(output), "--top-k", "50")[0] == 0
    assert output.stat().st_mtime_ns == before
