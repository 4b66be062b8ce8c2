"""ConvNeXt V1 and V2, the architecture on one page.

V1: "A ConvNet for the 2020s", Liu et al., CVPR 2022 (figure 4, appendix A).
V2: "ConvNeXt V2", Woo et al., CVPR 2023 (global response normalization, section 3.3).
Parameter names are those of timm's ConvNeXt, so timm can load a saved network.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Stem = Literal["patch", "overlap", "overlap_act"]


@dataclass(frozen=True)
class ConvNeXtConfig:
    """The hyperparameters of a ConvNeXt.

    ``layer_scale`` enables V1's per-channel residual scale, ``grn`` V2's global response normalization.
    ``norm_before_pool`` applies the head's LayerNorm before global average pooling instead of after it.
    ``stem_width`` is the number of channels between the two 3×3 convolutions of an overlapping stem.
    Raises ``ValueError`` on inconsistent values.
    """

    depths: tuple[int, ...]
    widths: tuple[int, ...]
    num_classes: int = 1000
    in_channels: int = 3
    stem: Stem = "patch"
    patch_size: int = 4
    stem_width: int | None = None
    layer_scale: bool = True
    grn: bool = False
    norm_eps: float = 1e-6
    head_norm_eps: float = 1e-6
    norm_before_pool: bool = False
    drop_path_rate: float = 0.0

    def __post_init__(self) -> None:
        if not self.depths or len(self.depths) != len(self.widths):
            raise ValueError(f"depths {self.depths} and widths {self.widths} must have the same length, at least 1")
        if min(*self.depths, *self.widths, self.num_classes, self.in_channels, self.patch_size) < 1:
            raise ValueError(f"all sizes must be at least 1: {self}")
        if self.stem != "patch" and self.stem_width is None:
            raise ValueError(f"stem={self.stem!r} requires stem_width")


_SIZES: dict[str, tuple[tuple[int, ...], int]] = {  # name → depths, first width; each stage doubles it
    "atto": ((2, 2, 6, 2), 40),
    "femto": ((2, 2, 6, 2), 48),
    "pico": ((2, 2, 6, 2), 64),
    "nano": ((2, 2, 8, 2), 80),
    "tiny": ((3, 3, 9, 3), 96),
    "small": ((3, 3, 27, 3), 96),
    "base": ((3, 3, 27, 3), 128),
    "large": ((3, 3, 27, 3), 192),
    "xlarge": ((3, 3, 27, 3), 256),
    "huge": ((3, 3, 27, 3), 352),
}
SIZES: tuple[str, ...] = tuple(_SIZES)


def config_for(size: str, version: Literal[1, 2] = 1, num_classes: int = 1000) -> ConvNeXtConfig:
    """Returns the published configuration of ``size`` (one of ``SIZES``). Raises ``KeyError`` if it is unknown."""
    depths, width = _SIZES[size]
    widths = tuple(width << stage for stage in range(len(depths)))
    return ConvNeXtConfig(depths, widths, num_classes, layer_scale=version == 1, grn=version == 2)


class DropPath(nn.Module):
    """Stochastic depth: drops the residual branch of random samples during training (Huang et al., ECCV 2016)."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0.0:
            return x
        mask = x.new_empty((x.shape[0],) + (1,) * (x.ndim - 1)).bernoulli_(1 - self.rate)
        return x * mask / (1 - self.rate)


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of a feature map ``(N, C, H, W)``."""

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1)
        return super().forward(x).permute(0, 3, 1, 2)  # (N, C, H, W)


class GlobalResponseNorm(nn.Module):
    """V2's global response normalization of ``(N, H, W, C)``: scales each channel by its relative L2 norm."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        response = x.norm(p=2, dim=(1, 2), keepdim=True)  # (N, 1, 1, C)
        relative = response / (response.mean(dim=-1, keepdim=True) + 1e-6)
        return x + torch.addcmul(self.bias, self.weight, x * relative)


class Mlp(nn.Module):
    """The inverted bottleneck on ``(N, H, W, C)``: C → 4C, GELU, V2's GRN, 4C → C."""

    def __init__(self, width: int, grn: bool) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.grn: nn.Module = GlobalResponseNorm(4 * width) if grn else nn.Identity()
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(self.grn(F.gelu(self.fc1(x))))
        return out


class Block(nn.Module):
    """A residual block: depthwise 7×7, LayerNorm, MLP, LayerScale, DropPath."""

    def __init__(self, width: int, config: ConvNeXtConfig, drop_path: float) -> None:
        super().__init__()
        self.conv_dw = nn.Conv2d(width, width, kernel_size=7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width, eps=config.norm_eps)
        self.mlp = Mlp(width, config.grn)
        self.gamma = nn.Parameter(torch.full((width,), 1e-6)) if config.layer_scale else None
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv_dw(x).permute(0, 2, 3, 1)  # (N, H, W, C)
        out = self.mlp(self.norm(out))
        if self.gamma is not None:
            out = out * self.gamma
        branch: Tensor = self.drop_path(out.permute(0, 3, 1, 2))  # (N, C, H, W)
        return x + branch


class Stage(nn.Module):
    """Residual blocks of one width, preceded by a downsampling layer unless ``in_width`` is None (first stage)."""

    def __init__(self, in_width: int | None, width: int, config: ConvNeXtConfig, drop_paths: list[float]) -> None:
        super().__init__()
        self.downsample: nn.Module = nn.Identity()
        if in_width is not None:
            self.downsample = nn.Sequential(
                ChannelNorm(in_width, eps=config.norm_eps), nn.Conv2d(in_width, width, kernel_size=2, stride=2)
            )
        self.blocks = nn.Sequential(*(Block(width, config, rate) for rate in drop_paths))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.blocks(self.downsample(x))
        return out


class Head(nn.Module):
    """Global average pooling, LayerNorm (before pooling if ``norm_before_pool``) and the linear classifier."""

    def __init__(self, width: int, config: ConvNeXtConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=config.head_norm_eps)
        self.fc = nn.Linear(width, config.num_classes)
        self.norm_before_pool = config.norm_before_pool

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1)  # (N, H, W, C)
        x = self.norm(x).mean((1, 2)) if self.norm_before_pool else self.norm(x.mean((1, 2)))
        logits: Tensor = self.fc(x)  # (N, num_classes)
        return logits


def _stem(config: ConvNeXtConfig) -> nn.Sequential:
    width = config.widths[0]
    norm = ChannelNorm(width, eps=config.norm_eps)
    if config.stem == "patch":
        patchify = nn.Conv2d(config.in_channels, width, kernel_size=config.patch_size, stride=config.patch_size)
        return nn.Sequential(patchify, norm)
    hidden = config.stem_width or width
    first = nn.Conv2d(config.in_channels, hidden, kernel_size=3, stride=2, padding=1)
    second = nn.Conv2d(hidden, width, kernel_size=3, stride=2, padding=1)
    activation = [nn.GELU()] if config.stem == "overlap_act" else []
    return nn.Sequential(first, *activation, second, norm)


class ConvNeXt(nn.Module):
    """The network: normalized float32 images ``(N, 3, H, W)`` to logits ``(N, num_classes)``."""

    def __init__(self, config: ConvNeXtConfig) -> None:
        super().__init__()
        self.config = config
        self.stem = _stem(config)
        rates = iter(torch.linspace(0, config.drop_path_rate, sum(config.depths), device="cpu").tolist())
        in_widths = (None, *config.widths[:-1])
        self.stages = nn.Sequential(
            *(
                Stage(in_width, width, config, [next(rates) for _ in range(depth)])
                for in_width, width, depth in zip(in_widths, config.widths, config.depths, strict=True)
            )
        )
        self.head = Head(config.widths[-1], config)
        self.apply(_init_weights)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.forward_features(x))
        return logits

    def forward_features(self, x: Tensor) -> Tensor:
        """The last feature map, ``(N, widths[-1], H / 32, W / 32)`` with the published strides."""
        features: Tensor = self.stages(self.stem(x))
        return features


def _init_weights(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
