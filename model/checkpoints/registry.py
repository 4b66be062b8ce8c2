"""The registry of published weights: name → where they are, what they are, and how images are prepared for them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from model.checkpoints.download import default_cache_dir, fetch, sha256_of
from model.checkpoints.model_card import Card
from model.convnext import ConvNeXtConfig, config_for
from model.errors import DownloadError
from model.labels import label_set
from model.preprocess import Transform

DEFAULT_MODEL = "convnext_atto_tiny_imagenet_200"
_PRETRAINED = Path(__file__).parent.parent / "pretrained"


@dataclass(frozen=True)
class WeightsEntry:
    """One published file.

    ``url`` is None where the file is part of the package; such a file's own header says what the entry leaves None.
    ``sha256`` is the digest, or the prefix of it, that its publisher gives; None where none is published, and then the
    digest found at the first fetch is noted beside the file and held to from there on.
    ``top1`` is the published ImageNet-1K accuracy in percent, at ``transform``; ``source`` is where it stands.
    """

    name: str
    file_name: str
    source: str
    url: str | None = None
    sha256: str | None = None
    config: ConvNeXtConfig | None = None
    transform: Transform | None = None
    labels: str | None = None
    licence: str | None = None
    top1: float | None = None

    @property
    def non_commercial(self) -> bool:
        """Whether the licence forbids commercial use."""
        return is_non_commercial(self.licence)

    def path(self, cache_dir: Path | None = None) -> Path:
        """Where the file is, or will be once it is fetched."""
        if self.url is None:
            return _PRETRAINED / self.file_name
        return (cache_dir or default_cache_dir()) / self.file_name

    def card(self) -> Card:
        """What the entry knows of the file."""
        labels = None if self.labels is None else label_set(self.labels)
        return Card(self.name, self.licence, self.transform, labels, self.config, top1=self.top1)


def is_non_commercial(licence: str | None) -> bool:
    """Whether a licence's name says that it forbids commercial use."""
    return licence is not None and ("-NC" in licence.upper() or "NONCOMMERCIAL" in licence.upper().replace("-", ""))


def fetch_weights(entry: WeightsEntry, cache_dir: Path | None = None) -> Path:
    """The path of the entry's file, fetched into ``cache_dir`` unless it is there. Raises ``DownloadError``."""
    path = entry.path(cache_dir)
    if not path.exists():
        if entry.url is None:
            raise DownloadError(f"{path} is missing: the package was installed without its embedded weights")
        fetch(entry.url, path, sha256=entry.sha256)
    return path


def verify_weights(entry: WeightsEntry, cache_dir: Path | None = None) -> str:
    """The SHA-256 of the entry's file, held to what is published or, failing that, to what was noted at the fetch.

    Raises ``DownloadError`` where the file is absent or differs.
    """
    path, note = entry.path(cache_dir), Path(f"{entry.path(cache_dir)}.sha256")
    if not path.exists():
        raise DownloadError(f"{entry.name} has not been fetched: there is no {path}")
    found = sha256_of(path)
    expected = entry.sha256 or (note.read_text().split()[0] if note.exists() else "")
    if not found.startswith(expected):
        raise DownloadError(
            f"{path} is damaged or another file: its SHA-256 is {found}, where {expected} was expected. "
            "Delete it to have it fetched again."
        )
    return found


def _embedded() -> Iterator[WeightsEntry]:
    yield WeightsEntry(DEFAULT_MODEL, f"{DEFAULT_MODEL}.safetensors", "part of this package; see its model card")


def _torchvision() -> Iterator[WeightsEntry]:
    """torchvision.models.convnext, weights IMAGENET1K_V1; the digest's prefix is part of each file's name."""
    for size, sha256, resize_size, top1 in (
        ("tiny", "983f1562", 236, 82.520),
        ("small", "0c510722", 230, 83.616),
        ("base", "6075fbad", 232, 84.062),
        ("large", "ea097f82", 232, 84.414),
    ):
        yield WeightsEntry(
            name=f"convnext_{size}",
            file_name=f"convnext_{size}-{sha256}.pth",
            source="torchvision, IMAGENET1K_V1",
            url=f"https://download.pytorch.org/models/convnext_{size}-{sha256}.pth",
            sha256=sha256,
            config=config_for(size),
            transform=Transform(resize_size),
            labels="imagenet_1k",
            licence="BSD-3-Clause",
            top1=top1,
        )


def _facebook(
    version: Literal[1, 2], tag: str, folder: str, suffix: str, published: Mapping[str, float]
) -> Iterator[WeightsEntry]:
    """The authors' 224-pixel files under timm's names for them; top-1 is from their READMEs. No digest is published."""
    family, licence = ("convnext", "MIT") if version == 1 else ("convnextv2", "CC-BY-NC-4.0")
    for size, top1 in published.items():
        file_name = f"{family}_{size}_{suffix}"
        if file_name == "convnext_xlarge_22k_1k_224.pth":
            file_name = "convnext_xlarge_22k_1k_224_ema.pth"
        yield WeightsEntry(
            name=f"{family}_{size}.{tag}",
            file_name=file_name,
            source="facebookresearch/ConvNeXt" + ("-V2" if version == 2 else ""),
            url=f"https://dl.fbaipublicfiles.com/convnext/{folder}{file_name}",
            config=config_for(size, version),
            transform=Transform(256, interpolation="bicubic"),
            labels="imagenet_1k",
            licence=licence,
            top1=top1,
        )


def _timm_releases() -> Iterator[WeightsEntry]:
    """timm's own small networks; the digest's prefix is part of each file's name, top-1 is from their model cards."""
    stem_widths = {"atto_ols": 24, "femto_ols": 24, "pico_ols": 32, "nano_ols": 80}
    for size, tag, sha256, resize_size, top1 in (
        ("atto", "d2", "01bb0f51", 256, 75.664),
        ("atto_ols", "a2", "78d1c8f3", 256, 75.880),
        ("femto", "d1", "d71d5b4c", 256, 77.454),
        ("femto_ols", "d1", "246bf2ed", 256, 77.860),
        ("pico", "d1", "10ad7f0d", 256, 79.526),
        ("pico_ols", "d1", "611f0ca7", 235, 79.522),
        ("nano", "d1h", "7eb4bdea", 235, 80.768),
        ("nano_ols", "d1h", "ae424a9a", 235, 80.866),
        ("tiny_hnf", "a2h", "ab7e9df2", 235, 82.216),
    ):
        config = replace(config_for(size.split("_")[0]), norm_before_pool=size == "tiny_hnf")
        if size in stem_widths:
            config = replace(config, stem="overlap", stem_width=stem_widths[size])
        yield _timm(
            f"convnext_{size}.{tag}_in1k", f"convnext_{size}_{tag}-{sha256}.pth", _TIMM_RELEASES, sha256, config,
            Transform(resize_size, interpolation="bicubic"), top1,
        )  # fmt: skip


def _timm_hub() -> Iterator[WeightsEntry]:
    """timm's best networks of each size; the hub announces a file's digest when it is fetched."""
    for size, tag, revision, sha256, transform, top1 in (
        ("nano", "in12k_ft_in1k", "main", None, Transform(235, interpolation="bicubic"), 82.282),
        ("tiny", "in12k_ft_in1k", _TINY_IN12K[0], _TINY_IN12K[1], Transform(235, interpolation="bicubic"), 84.186),
        ("small", "in12k_ft_in1k", "main", None, Transform(235, interpolation="bicubic"), 85.174),
        ("base", "clip_laion2b_augreg_ft_in12k_in1k", "main", None, _CLIP_256, 86.344),
    ):
        name = f"convnext_{size}.{tag}"
        root = f"https://huggingface.co/timm/{name}/resolve/{revision}"
        entry = _timm(name, "model.safetensors", root, sha256, config_for(size), transform, top1)
        yield replace(entry, file_name=f"{name}.safetensors")


def _timm(
    name: str, file_name: str, root: str, sha256: str | None, config: ConvNeXtConfig, transform: Transform, top1: float
) -> WeightsEntry:
    return WeightsEntry(
        name=name,
        file_name=file_name,
        source="timm",
        url=f"{root}/{file_name}",
        sha256=sha256,
        config=config,
        transform=transform,
        labels="imagenet_1k",
        licence="Apache-2.0",
        top1=top1,
    )


_TIMM_RELEASES = "https://github.com/rwightman/pytorch-image-models/releases/download/v0.1-rsb-weights"
_TINY_IN12K = (
    "aa096f03029c7f0ec052013f64c819b34f8ad790",
    "a1aefa409b513cf209b085424eb3efffe4e4a9f511491bc2c12ea35209e6bb95",
)
_CLIP_256 = Transform(256, 256, "bicubic", (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
_V1_1K = {"tiny": 82.1, "small": 83.1, "base": 83.8, "large": 84.3}
_V1_22K = {"tiny": 82.9, "small": 84.6, "base": 85.8, "large": 86.6, "xlarge": 87.0}
_V2_1K = {
    "atto": 76.7,
    "femto": 78.5,
    "pico": 80.3,
    "nano": 81.9,
    "tiny": 83.0,
    "base": 84.9,
    "large": 85.8,
    "huge": 86.3,
}
_V2_22K = {"nano": 82.1, "tiny": 83.9, "base": 86.8, "large": 87.3}

REGISTRY: Mapping[str, WeightsEntry] = MappingProxyType(
    {
        entry.name: entry
        for entry in (
            *_embedded(),
            *_torchvision(),
            *_timm_releases(),
            *_timm_hub(),
            *_facebook(1, "fb_in1k", "", "1k_224_ema.pth", _V1_1K),
            *_facebook(1, "fb_in22k_ft_in1k", "", "22k_1k_224.pth", _V1_22K),
            *_facebook(2, "fcmae_ft_in1k", "convnextv2/im1k/", "1k_224_ema.pt", _V2_1K),
            *_facebook(2, "fcmae_ft_in22k_in1k", "convnextv2/im22k/", "22k_224_ema.pt", _V2_22K),
        )
    }
)
