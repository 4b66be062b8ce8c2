"""The picture of an activation map."""

import io

import numpy as np
from PIL import Image

from app.api.heatmap import draw


def decode(picture: bytes) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    return np.asarray(Image.open(io.BytesIO(picture))).astype(np.int64)


def test_positions_for_the_class_are_red_and_those_against_it_blue() -> None:
    pixels = np.full((8, 8, 3), 128, np.uint8)
    values = np.array([[4, -4], [4, -4]], np.float32)
    picture = decode(draw(pixels, values))
    assert picture.shape == (8, 8, 3)
    assert picture[:, 0, 0].min() > picture[:, 0, 2].max()
    assert picture[:, -1, 2].min() > picture[:, -1, 0].max()


def test_a_map_without_contributions_leaves_the_photo_as_it_is() -> None:
    pixels = np.arange(192, dtype=np.uint8).reshape(8, 8, 3)
    assert (decode(draw(pixels, np.zeros((2, 2), np.float32))) == pixels).all()
