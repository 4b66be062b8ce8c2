"""AccessEntry: one request as text and as fields."""

from urllib.parse import unquote

import pytest

from app.api.access_log import AccessEntry

PREDICT = AccessEntry("POST", "/predict", "/predict", 200, 0.0123456, "abc", None)


def test_text_has_the_duration_in_milliseconds_and_the_request_id() -> None:
    assert str(PREDICT) == "POST /predict 200 12.3 ms id=abc"


def test_text_has_the_problem_of_a_request_that_failed() -> None:
    assert str(PREDICT._replace(status=503, problem="overloaded")).endswith(" id=abc problem=overloaded")


def test_fields_have_units() -> None:
    assert PREDICT.fields() == {
        "method": "POST",
        "path": "/predict",
        "route": "/predict",
        "status": 200,
        "duration_ms": 12.346,
        "request_id": "abc",
        "problem": None,
    }


@pytest.mark.parametrize("path", ["/a\n2026 INFO forged", "/\x1b[31m", "/a b", "/ü", "/%0a", "/\x00", '/"', "/a;b=1,2"])
def test_paths_are_printable_and_can_be_restored(path: str) -> None:
    logged = PREDICT._replace(path=path, status=404).fields()["path"]
    assert isinstance(logged, str)
    assert logged.isascii()
    assert logged.isprintable()
    assert " " not in logged
    assert unquote(logged) == path


@pytest.mark.parametrize("path", ["/" + "a" * 100_000, "/" + "\n" * 100_000])
def test_long_paths_are_cut_off(path: str) -> None:
    entry = PREDICT._replace(path=path)
    assert len(str(entry)) < 300
    assert len(str(entry.fields()["path"])) == 201
