from typing import Any, Literal

import pytest
import torch

from model.convnext import SIZES, ConvNeXt, ConvNeXtConfig, DropPath, GlobalResponseNorm, Stem, config_for

PUBLISHED_MILLIONS: dict[tuple[Literal[1, 2], str], float] = {  # V2 paper, table 1, and timm, which rounds to 10 000
    (1, "atto"): 3.70, (1, "femto"): 5.22, (1, "pico"): 9.05, (1, "nano"): 15.59, (1, "tiny"): 28.59,
    (1, "small"): 50.22, (1, "base"): 88.59, (1, "large"): 197.77, (1, "xlarge"): 350.20,
    (2, "atto"): 3.71, (2, "femto"): 5.23, (2, "pico"): 9.07, (2, "nano"): 15.62, (2, "tiny"): 28.64,
    (2, "base"): 88.72, (2, "large"): 197.96, (2, "huge"): 660.29,
}  # fmt: skip


@pytest.mark.parametrize(("version", "size"), PUBLISHED_MILLIONS)
def test_sizes_have_the_published_number_of_parameters(version: Literal[1, 2], size: str) -> None:
    with torch.device("meta"):
        network = ConvNeXt(config_for(size, version))
    count = sum(parameter.numel() for parameter in network.parameters())
    assert count / 1e6 == pytest.approx(PUBLISHED_MILLIONS[version, size], abs=0.006)


def test_sizes_are_those_of_both_papers() -> None:
    assert {size for _, size in PUBLISHED_MILLIONS} == set(SIZES)
    with pytest.raises(KeyError):
        config_for("gigantic")


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"depths": (1, 1)}, "depths"),
        ({"depths": (), "widths": ()}, "depths"),
        ({"num_classes": 0}, "num_classes=0"),
        ({"widths": (0,)}, r"widths=\(0,\)"),
        ({"stem": "overlap"}, "stem_width"),
    ],
)
def test_rejects_an_invalid_config(changes: dict[str, Any], name: str) -> None:  # Any: arguments of different types
    with pytest.raises(ValueError, match=name):
        ConvNeXtConfig(**{"depths": (1,), "widths": (8,)} | changes)


def test_global_response_norm_matches_the_formula_of_the_paper() -> None:
    norm = GlobalResponseNorm(3)
    norm.weight.data = torch.tensor([0.5, -1.0, 2.0])
    norm.bias.data = torch.tensor([0.1, 0.2, 0.3])
    x = torch.randn(2, 4, 5, 3, generator=torch.Generator().manual_seed(0))
    energy = x.square().sum((1, 2)).sqrt()  # (N, C)
    relative = energy / energy.mean(1, keepdim=True)
    expected = x * (1 + norm.weight * relative[:, None, None]) + norm.bias
    torch.testing.assert_close(norm(x), expected)


def test_drop_path_drops_whole_samples_and_preserves_the_mean() -> None:
    torch.manual_seed(0)
    x = torch.ones(4000, 2, 1, 1)
    out = DropPath(0.25).train()(x)
    assert out.unique().tolist() == pytest.approx([0, 4 / 3])
    assert torch.equal(out[:, 0], out[:, 1])
    assert out.mean().item() == pytest.approx(1, abs=0.05)
    assert torch.equal(DropPath(0.25).eval()(x), x)


def test_drop_path_rates_increase_linearly_with_depth() -> None:
    network = ConvNeXt(ConvNeXtConfig((1, 2), (8, 16), drop_path_rate=0.2))
    rates = [module.rate for module in network.modules() if isinstance(module, DropPath)]
    assert rates == pytest.approx([0.0, 0.1, 0.2])


@pytest.mark.parametrize("stem", ["patch", "overlap", "overlap_act"])
def test_every_stem_divides_the_resolution_by_four(stem: Stem) -> None:
    network = ConvNeXt(ConvNeXtConfig((1, 1), (8, 16), num_classes=5, stem=stem, stem_width=4))
    images = torch.randn(2, 3, 32, 32)
    assert network.stem(images).shape == (2, 8, 8, 8)
    assert network(images).shape == (2, 5)
