"""Every faster path on a CUDA device, compared with float32; skipped without CUDA."""

from functools import partial
from typing import get_args

import pytest
import torch

from model import Transform
from model.convnext import ConvNeXt, ConvNeXtConfig
from model.inference.cuda.compilation import compile_in_parallel
from model.inference.cuda.depthwise import (
    DepthwiseNorm,
    DepthwiseWeights,
    candidate_tiles,
    compile_kernel,
    launch_kernel,
)
from model.inference.cuda.fused import FastPath, FusedConvNeXt, available_paths
from model.inference.cuda.gpu import CudaGpu
from model.inference.cuda.paths import LIMIT
from model.inference.cuda_runtime import CudaRuntime
from model.inference.fold import fold
from model.inference.precise_head import PreciseHead
from tests.gpu.networks import WIDTHS, smooth_images
from tests.model.conftest import randomize
from tests.model.inference.cuda.fake_gpu import exact_depthwise_norm

FAST_PATHS: tuple[FastPath, ...] = get_args(FastPath)

if not torch.cuda.is_available():
    pytest.skip("there is no CUDA device", allow_module_level=True)

CUDA = torch.device("cuda:0")
ERRORS = {torch.float32: 1e-5, torch.float16: 1e-3, torch.bfloat16: 1e-2}
CASES = [  # side, channels, images, data type
    *((*shape, torch.float16) for shape in ((56, 96, 4), (7, 768, 4), (7, 768, 1), (13, 40, 5), (1, 8, 1))),
    *((13, 40, 5, dtype) for dtype in (torch.float32, torch.bfloat16)),
]


def folded(size: int = 64, **kind: bool) -> ConvNeXt:
    network = randomize(ConvNeXt(ConvNeXtConfig((2, 3), WIDTHS, num_classes=5, **kind)))  # type: ignore[arg-type]  # flags
    return fold(network, Transform(size, size))


def difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    found, expected = found.double().cpu(), expected.double().cpu()
    return float((found - expected).norm() / expected.norm())


@pytest.fixture(scope="module", autouse=True)
def compiled() -> None:
    """All tiles below, on all cores."""
    tiles = {(dtype, c, tile) for side, c, n, dtype in CASES for tile in candidate_tiles(side, c, n)}
    compile_in_parallel([partial(compile_kernel, dtype, c, 1e-6, tile) for dtype, c, tile in tiles])


@pytest.mark.parametrize(("side", "channels", "count", "dtype"), CASES)
def test_the_kernel_computes_a_layer_with_every_tile(side: int, channels: int, count: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x = torch.randn(count, side, side, channels).to(dtype)
    weight, bias, outside = torch.randn(7, 7, channels) / 7, torch.randn(channels), torch.randn(channels).to(dtype)
    expected = exact_depthwise_norm(x, DepthwiseWeights(weight, bias, outside, 1e-6))
    weights = DepthwiseWeights(weight.to(CUDA), bias.to(CUDA), outside.to(CUDA), 1e-6)
    for tile in candidate_tiles(side, channels, count):
        out = torch.full_like(x, float("nan"), device=CUDA)
        launch_kernel(x.to(CUDA), weights, out, tile)
        assert difference(out, expected) < ERRORS[dtype], tile


@pytest.mark.parametrize(("path", "dtype"), [*((path, torch.float16) for path in FAST_PATHS), ("all", torch.bfloat16)])
@pytest.mark.parametrize("grn", [False, True])
def test_each_path_computes_the_network(path: str, dtype: torch.dtype, grn: bool) -> None:
    exact = folded(grn=grn, layer_scale=not grn)
    network = PreciseHead(folded(grn=grn, layer_scale=not grn), CUDA, dtype)
    groups: dict[str, list[str]] = {"residual": ["depthwise", "residual"], "all": list(available_paths(exact, 64))}
    paths = groups.get(path, [path])
    fused = FusedConvNeXt(network.network, exact, dtype, frozenset(paths), DepthwiseNorm())
    pixels = torch.randint(0, 256, (3, 64, 64, 3), dtype=torch.uint8)
    with torch.inference_mode():
        features = exact.forward_features(pixels.permute(0, 3, 1, 2).float())
        found_logits, found_features = fused(pixels.to(CUDA))
        eager_logits, _ = network(pixels.to(CUDA))
    limit = max(LIMIT, 2 * difference(eager_logits, exact.head(features)))
    assert difference(found_logits, exact.head(features)) < limit
    assert difference(found_features, features) < limit


def test_all_paths_are_proved_on_this_device() -> None:
    """They may be slower for a network this small, but none of them may fail or deviate."""
    network = fold(randomize(ConvNeXt(ConvNeXtConfig((2, 2), WIDTHS, num_classes=5))), Transform(224, 224))
    runtime = CudaRuntime(network, CudaGpu(CUDA), torch.float16, 224, 4, compiled=False)
    images = smooth_images(4)
    for size in (1, 2, 4):
        runtime.run(images[:size], size, idle=False)
    runtime.tune(images, [1, 2, 4], 1e-3)
    assert runtime.mode.startswith("graphs")
    assert runtime.tiles


def test_dropped_graphs_give_their_memory_back() -> None:
    stream, x = CudaGpu(CUDA).stream(), torch.ones(2**24, device=CUDA)
    2 * x  # loads the kernel, which recording a graph may not
    torch.cuda.synchronize()

    def reserved_bytes() -> int:
        torch.cuda.empty_cache()
        return torch.cuda.memory_reserved()

    before = reserved_bytes()
    graphs = [stream.capture(lambda: 2 * x) for _ in range(2)]
    assert reserved_bytes() >= before + 2 * x.nbytes
    graphs.clear()
    assert reserved_bytes() == before
