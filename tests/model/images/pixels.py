"""Compares pixels with those of libraries that resize with Pillow."""

from collections.abc import Sequence

import torch


def assert_close_to_pillow(found: torch.Tensor, expected: torch.Tensor, std: Sequence[float]) -> None:
    """At most two of 256 levels apart, and a quarter of a level on average, on images full of edges and noise.

    Pillow rounds between its two passes, torch's uint8 kernel rounds its weights. ``found`` and ``expected`` are
    normalized ``(3, H, W)``, ``std`` is what they were divided by.
    """
    levels = ((found - expected).abs() * torch.tensor(std).view(3, 1, 1) * 255).round()
    assert levels.max() <= 2
    assert levels.mean() <= 0.25
