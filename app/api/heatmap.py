"""draw: a class activation map laid over a photo, as PNG."""

import io

import numpy as np
import numpy.typing as npt
from PIL import Image

_OPACITY = 0.6  # of the strongest position


def draw(pixels: npt.NDArray[np.uint8], values: npt.NDArray[np.float32]) -> bytes:
    """A PNG of ``pixels`` ``(H, W, 3)`` uint8, colored where ``values`` ``(h, w)`` are positive: red for the class.

    Negative values, which speak against the class, are blue.
    """
    height, width = pixels.shape[:2]
    scaled = values / (np.abs(values).max() or 1.0)
    smooth = np.asarray(Image.fromarray(scaled.astype(np.float32)).resize((width, height), Image.Resampling.BICUBIC))
    alpha = (_OPACITY * np.abs(smooth).clip(0, 1))[..., None]  # (H, W, 1)
    color = np.where(smooth[..., None] > 0, (255, 40, 0), (0, 90, 255))  # (H, W, 3)
    blended = (pixels * (1 - alpha) + color * alpha).round().astype(np.uint8)
    output = io.BytesIO()
    Image.fromarray(blended).save(output, "PNG")
    return output.getvalue()
