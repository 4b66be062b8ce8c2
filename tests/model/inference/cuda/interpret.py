"""Runs the kernel in Triton's interpreter, which must be chosen before Triton is imported; prints errors as JSON.

python -m tests.model.inference.cuda.interpret    # TRITON_INTERPRET=1 in the environment
"""

import json
import sys
from typing import Any

import torch

from model.inference.cuda.depthwise import DepthwiseNorm, DepthwiseWeights, Tile, candidate_tiles
from model.inference.cuda.norm import NormWeights, launch_norm
from tests.model.inference.cuda.fake_gpu import exact_depthwise_norm, exact_norm

CASES = [  # shape (N, H, W, C), tile, data type
    ((1, 5, 7, 24), Tile(4, 8, 8, 1), torch.float16),
    ((1, 3, 9, 64), Tile(2, 16, 64, 4), torch.float16),
    ((2, 2, 11, 16), Tile(1, 8, 8, 1), torch.float16),
    ((1, 2, 33, 32), Tile(4, 32, 32, 2), torch.float32),
]
NORMS = [  # shape (N, H, W, C), side, data type
    ((2, 5, 7, 24), 2, torch.float16),
    ((1, 3, 4, 96), 1, torch.float16),
    ((3, 4, 4, 16), 2, torch.float32),
]


def layer(channels: int, dtype: torch.dtype, generator: torch.Generator) -> DepthwiseWeights:
    weight = torch.randn(7, 7, channels, generator=generator) / 7
    bias = torch.randn(channels, generator=generator)
    return DepthwiseWeights(weight, bias, torch.randn(channels, generator=generator).to(dtype), 1e-6)


def relative_error(shape: tuple[int, ...], tile: Tile | None, dtype: torch.dtype) -> float:
    """The error of the kernel, compared with float64; NaN if it leaves a value unwritten."""
    generator = torch.Generator().manual_seed(sum(shape))
    x = (torch.randn(shape, generator=generator) + 0.3).to(dtype)
    weights = layer(shape[3], dtype, generator)
    run = DepthwiseNorm()
    run.tiles[shape] = tile or candidate_tiles(shape[2], shape[3], shape[0])[0]
    found = run(x, weights).double()
    expected = exact_depthwise_norm(x, weights)
    return float((found - expected).norm() / expected.norm())


def norm_error(shape: tuple[int, ...], side: int, dtype: torch.dtype) -> float:
    """The error of the kernel of the other LayerNorms."""
    generator = torch.Generator().manual_seed(sum(shape))
    x = (torch.randn(shape, generator=generator) + 0.3).to(dtype)
    add, weight, bias = (torch.randn(shape[3], generator=generator) for _ in range(3))
    weights = NormWeights(add, weight, bias, 1e-6)
    expected = exact_norm(x, weights, side)
    found = torch.empty(expected.shape, dtype=dtype)
    launch_norm(x, weights, side, found)
    return float((found.double() - expected).norm() / expected.norm())


def main() -> None:
    torch.set_num_threads(1)
    torch.utils.deterministic.fill_uninitialized_memory = True  # type: ignore[attr-defined]  # with NaN; torch's
    torch.use_deterministic_algorithms(True)
    errors: list[dict[str, Any]] = []  # Any: as in CASES
    for shape, tile, dtype in CASES:
        error = relative_error(shape, tile, dtype)
        errors.append({"shape": shape, "tile": tile, "dtype": str(dtype), "error": error})
    for shape, side, dtype in NORMS:
        errors.append({"shape": shape, "side": side, "dtype": str(dtype), "error": norm_error(shape, side, dtype)})
    sys.stdout.write(json.dumps(errors))


if __name__ == "__main__":
    main()
