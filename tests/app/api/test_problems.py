"""The error tree: one status, type and title each, as RFC 9457 wants them."""

import json

import pytest

from app.api.schemas import Problem
from app.serving import errors

ROWS = {
    errors.InvalidRequest: (400, "invalid-request"),
    errors.Unauthorized: (401, "unauthorized"),
    errors.UploadTooLarge: (413, "upload-too-large"),
    errors.UnsupportedMediaType: (415, "unsupported-media-type"),
    errors.UnreadableImage: (422, "invalid-image"),
    errors.TooManyPixels: (422, "image-too-large"),
    errors.InvalidParameter: (422, "invalid-parameter"),
    errors.Overloaded: (503, "overloaded"),
    errors.Unavailable: (503, "unavailable"),
    errors.DeadlineExceeded: (504, "deadline-exceeded"),
}


def subclasses(kind: type) -> set[type]:
    return {kind}.union(*map(subclasses, kind.__subclasses__()))


def test_every_error_has_its_row():
    assert subclasses(errors.ServiceError) - {errors.ServiceError} == set(ROWS)


@pytest.mark.parametrize("kind", ROWS)
def test_an_error_becomes_its_problem(kind):
    arguments = ("what was wrong", 3.2) if kind is errors.Overloaded else ("what was wrong",)
    response = errors.service_problem(kind(*arguments))
    assert (response.status_code, response.media_type) == (ROWS[kind][0], "application/problem+json")
    body = json.loads(response.body)
    assert Problem.model_validate(body, strict=True)
    assert (body["status"], body["type"], body["detail"]) == (*ROWS[kind], "what was wrong")


@pytest.mark.parametrize(("wait_s", "seconds"), [(0.0, "1"), (0.2, "1"), (1.0, "1"), (1.01, "2"), (59.5, "60")])
def test_retry_after_is_in_whole_seconds_and_never_at_once(wait_s, seconds):
    assert errors.Overloaded("full", wait_s).headers == {"Retry-After": seconds}


def test_unauthorized_says_how_to_authenticate():
    assert errors.Unauthorized("no key").headers == {"WWW-Authenticate": "Bearer"}


def test_the_unforeseen_tells_nothing():
    response = errors.unforeseen_problem()
    assert (response.status_code, response.media_type) == (500, "application/problem+json")
    assert Problem.model_validate_json(response.body)
