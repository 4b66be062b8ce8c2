"""The error table, whose rows the tests of the routes cover."""

import pytest

from app.api.problems import PREDICTION_ERRORS, error_response, problem_type
from app.serving import errors
from model.errors import InvalidImage


def test_every_error_of_the_serving_layer_is_in_the_table() -> None:
    assert set(errors.ServingError.__subclasses__()) <= set(PREDICTION_ERRORS)


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
