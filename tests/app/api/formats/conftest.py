"""Images for the adapters."""

import numpy as np
import pytest
from PIL import Image

from tests.conftest import Encode


@pytest.fixture(scope="session")
def encode_noise(encode: Encode) -> bytes:
    """A PNG of noise, larger than a megabyte."""
    pixels = np.random.default_rng(0).integers(0, 256, (700, 700, 3), np.uint8)
    return encode(Image.fromarray(pixels))
