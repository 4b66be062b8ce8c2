"""The fused network computes the logits and features of the folded one, with any of its paths."""

from itertools import chain, combinations
from typing import Any, get_args

import pytest
import torch

from model import Transform
from model.convnext import ConvNeXt, ConvNeXtConfig
from model.inference.cuda.depthwise import DepthwiseNorm, candidate_tiles, supports
from model.inference.cuda.fused import FastPath, FusedConvNeXt, available_paths, linear_gelu
from model.inference.fold import fold
from tests.model.conftest import randomize
from tests.model.inference.cuda.fake_gpu import launch_in_torch, norm_in_torch
from tests.model.kinds import KINDS

FAST_PATHS: tuple[FastPath, ...] = get_args(FastPath)

SIZE = 32


def folded(**kind: Any) -> ConvNeXt:  # Any: fields of the configuration
    network = randomize(ConvNeXt(ConvNeXtConfig((2, 3), (8, 16), num_classes=5, **kind)))
    return fold(network, Transform(SIZE, SIZE))


def pixels_of(side: int = SIZE) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (3, side, side, 3), generator=generator, dtype=torch.uint8)


def assert_same(network: ConvNeXt, paths: frozenset[str], pixels: torch.Tensor) -> None:
    fused = FusedConvNeXt(network, network, torch.float32, paths, DepthwiseNorm(launch_in_torch), norm_in_torch)
    with torch.inference_mode():
        features = network.forward_features(pixels.permute(0, 3, 1, 2).float())
        logits = network.head(features)
        found_logits, found_features = fused(pixels)
    assert logits.std() > 0.01
    torch.testing.assert_close(found_logits, logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found_features, features, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_all_paths_together_compute_every_kind_of_network(kind: dict[str, Any]) -> None:  # Any: as in KINDS
    network = folded(**kind)
    assert_same(network, frozenset(available_paths(network, SIZE)), pixels_of())


@pytest.mark.parametrize(
    "paths",
    [
        paths
        for paths in chain.from_iterable(combinations(FAST_PATHS, count) for count in range(len(FAST_PATHS) + 1))
        if "residual" not in paths or "depthwise" in paths
    ],
    ids=str,
)
def test_any_combination_of_paths_computes_the_same(paths: tuple[str, ...]) -> None:
    assert_same(folded(), frozenset(paths), pixels_of())


@pytest.mark.parametrize("side", [32, 40, 44])  # 5×5 and 5×5 of 11×11 positions in the second stage
def test_feature_maps_of_odd_size(side: int) -> None:
    network = folded()
    assert_same(network, frozenset(available_paths(network, side)), pixels_of(side))


def test_a_path_exists_only_where_it_can_compute_the_network() -> None:
    assert available_paths(folded(), SIZE) == list(FAST_PATHS)
    assert "patches" not in available_paths(folded(), 33)
    assert "patches" not in available_paths(folded(stem="overlap", stem_width=4), SIZE)
    narrow = fold(ConvNeXt(ConvNeXtConfig((1,), (12,))), Transform(SIZE, SIZE))
    assert available_paths(narrow, SIZE) == ["patches", "gelu"]


@pytest.mark.parametrize("channels", [8, 24, 40, 80, 96, 128, 160, 320, 768, 1024, 2816])
@pytest.mark.parametrize("width", [1, 7, 14, 56, 96])
@pytest.mark.parametrize("batch_size", [1, 4, 256])
def test_tiles_divide_the_channels_and_keep_the_layout(channels: int, width: int, batch_size: int) -> None:
    assert supports(channels)
    tiles = candidate_tiles(width, channels, batch_size)
    assert tiles
    for tile in tiles:
        assert channels % tile.channels == 0
        assert tile.channels <= 16 * tile.warps
        assert all(number & (number - 1) == 0 for number in tile)


def test_the_epilogue_is_a_linear_layer_and_gelu() -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(shape, generator=generator) for shape in ((2, 3, 5, 8), (16, 8), (16,)))
    expected = torch.nn.functional.gelu(x.double() @ weight.double().T + bias.double())
    assert_close = torch.testing.assert_close
    assert_close(linear_gelu(x, weight, bias).double(), expected, atol=1e-3, rtol=1e-3)  # tanh or erf


def test_other_batch_sizes_take_the_tile_of_the_nearest_one_that_was_measured() -> None:
    depthwise = DepthwiseNorm(launch_in_torch)
    few, many = candidate_tiles(4, 8, 1)[0], candidate_tiles(4, 8, 16)[0]
    depthwise.tiles = {(1, 4, 4, 8): few, (16, 4, 4, 8): many, (16, 2, 2, 8): many}
    depthwise.extend([1, 2, 4, 8, 16])
    assert [depthwise.tiles[size, 4, 4, 8] for size in (1, 2, 4, 8, 16)] == [few, few, many, many, many]
    assert depthwise.tiles[1, 2, 2, 8] == many
