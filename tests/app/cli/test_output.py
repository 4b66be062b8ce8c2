"""convnext-serve predict --output."""

from pathlib import Path

import pytest

from tests.app.cli.conftest import Predict


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
