"""The error table: each exception has one status, type and title, as RFC 9457 asks for."""

import json

import pytest

from app.api import problems
from app.api.problems import PREDICTION_ERRORS, error_response, problem_type
from app.api.schemas import Problem
from app.serving import errors
from model.errors import ImageTooLarge, InvalidImage, UnsupportedFormat

ROWS: dict[type[Exception], tuple[int, str]] = {
    problems.InvalidRequest: (400, "invalid-request"),
    problems.Unauthorized: (401, "unauthorized"),
    problems.UploadTooLarge: (413, "upload-too-large"),
    problems.UnsupportedMediaType: (415, "unsupported-media-type"),
    UnsupportedFormat: (415, "unsupported-media-type"),
    InvalidImage: (422, "invalid-image"),
    ImageTooLarge: (422, "image-too-large"),
    errors.InvalidParameter: (422, "invalid-parameter"),
    errors.Overloaded: (503, "overloaded"),
    errors.Unavailable: (503, "unavailable"),
    errors.DeadlineExceeded: (504, "deadline-exceeded"),
}


def build(kind: type[Exception]) -> Exception:
    return errors.Overloaded("detail", 3.2) if kind is errors.Overloaded else kind("detail")


def test_every_error_of_the_serving_layer_is_in_the_table() -> None:
    assert set(errors.ServingError.__subclasses__()) <= set(ROWS)
    assert set(PREDICTION_ERRORS) == set(ROWS)


@pytest.mark.parametrize("kind", ROWS)
def test_an_error_becomes_its_problem(kind: type[Exception]) -> None:
    response = error_response(build(kind))
    assert (response.status_code, response.media_type) == (ROWS[kind][0], "application/problem+json")
    body = json.loads(bytes(response.body))
    assert Problem.model_validate(body, strict=True)
    assert (body["status"], body["type"], body["detail"]) == (*ROWS[kind], "detail")


def test_a_subclass_has_the_row_of_its_nearest_base_class() -> None:
    class TruncatedImage(InvalidImage):
        pass

    row = problem_type(TruncatedImage("cut off"))
    assert row is not None
    assert row.type == "invalid-image"


@pytest.mark.parametrize(("wait_s", "seconds"), [(0.0, "1"), (0.2, "1"), (1.0, "1"), (1.01, "2"), (59.5, "60")])
def test_retry_after_is_a_positive_number_of_whole_seconds(wait_s: float, seconds: str) -> None:
    assert error_response(errors.Overloaded("full", wait_s)).headers["retry-after"] == seconds


def test_an_error_that_is_not_in_the_table_has_no_row() -> None:
    assert problem_type(ZeroDivisionError()) is None
