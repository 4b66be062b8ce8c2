"""The registry of published weights: name → where they are, what they are, and how images are prepared for them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from model.card import Card
from model.convnext import ConvNeXtConfig, config_for
from model.download import default_cache_dir, fetch, sha256_of
from model.errors import DownloadError
from model.labels import label_set
from model.preprocess import Transform

DEFAULT_MODEL = "convnext_atto_tiny_imagenet_200"
_PRETRAINED = Path(__file__).parent / "pretrained"


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


def _torchvision() -> Iterator[WeightsEntry]:
    """torchvision.models.convnext, weights IMAGENET1K_V1; the digest's prefix is part of each file's name."""
    published = (
        ("tiny", "983f1562", 236, 82.520),
        ("small", "0c510722", 230, 83.616),
        ("base", "6075fbad", 232, 84.062),
        ("large", "ea097f82", 232, 84.414),
    )
    for size, sha256, resize_size, top1 in published:
        file_name = f"convnext_{size}-{sha256}.pth"
        yield WeightsEntry(
            name=f"convnext_{size}",
            file_name=file_name,
            source="torchvision, IMAGENET1K_V1",
            url=f"https://download.pytorch.org/models/{file_name}",
            sha256=sha256,
            config=config_for(size),
            transform=Transform(resize_size),
            labels="imagenet_1k",
            licence="BSD-3-Clause",
            top1=top1,
        )


def _embedded() -> Iterator[WeightsEntry]:
    yield WeightsEntry(DEFAULT_MODEL, f"{DEFAULT_MODEL}.safetensors", "part of this package; see its model card")


REGISTRY: Mapping[str, WeightsEntry] = MappingProxyType(
    {entry.name: entry for entries in (_embedded(), _torchvision()) for entry in entries}
)
