"""The registry of published weights: registry.toml, and where the files are on disk."""

import difflib
import functools
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from model.checkpoints.download import default_cache_dir, digest_file, fetch, sha256_of
from model.checkpoints.model_card import ModelCard
from model.convnext import ConvNeXtConfig, config_for
from model.errors import DownloadError
from model.images.transform import Transform
from model.labels import label_set

_PRETRAINED = Path(__file__).parent.parent / "pretrained"
_TABLE = Path(__file__).with_suffix(".toml")


@dataclass(frozen=True)
class WeightsEntry:
    """A published weights file.

    ``url`` is None for a file in this package, whose header contains the fields that are None here. ``sha256`` is the
    published digest or a prefix of it; if None, the digest recorded by the first fetch is used. ``labels`` names a
    label set. ``top1`` is the ImageNet-1K accuracy in percent that ``source`` has published.
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

    def path(self, cache_dir: Path | None = None) -> Path:
        """Returns the path of the file, whether it has been fetched or not."""
        if self.url is None:
            return _PRETRAINED / self.file_name
        return (cache_dir or default_cache_dir()) / self.file_name

    def card(self) -> ModelCard:
        """Returns the model card of the file."""
        labels = None if self.labels is None else label_set(self.labels)
        return ModelCard(self.name, self.licence, self.transform, labels, self.config, top1=self.top1)


@functools.cache
def registered_weights() -> Mapping[str, WeightsEntry]:
    """Returns the published weights by name."""
    publishers = tomllib.loads(_TABLE.read_text(encoding="utf-8"))["publisher"]
    entries = [_entry(publisher | row) for publisher in publishers for row in publisher["weights"]]
    return MappingProxyType({entry.name: entry for entry in entries})


def suggest_name(name: str) -> str:
    """What to do about a name that is not registered, for an error message."""
    if "://" in name:
        return "download the file, or use OWNER/NAME of a repository of the Hub"
    similar = difflib.get_close_matches(name, registered_weights(), n=3)
    return f"did you mean {' or '.join(similar)}?" if similar else "see `convnext-serve weights list`"


def _entry(row: Mapping[str, Any]) -> WeightsEntry:  # Any: parsed TOML
    row = {key: tuple(value) if isinstance(value, list) else value for key, value in row.items()}
    row["file"] = row["file"].format(**row)
    if "url" not in row:
        return WeightsEntry(row["name"], row["file"], row["source"])
    return WeightsEntry(
        name=row["name"],
        file_name=row["file"],
        source=row["source"],
        url=row["url"].format(**row),
        sha256=row.get("sha256"),
        config=replace(config_for(row["size"], row["version"]), **_select(row, ConvNeXtConfig)),
        transform=Transform(**_select(row, Transform)),
        labels=row["labels"],
        licence=row["licence"],
        top1=row["top1"],
    )


def _select(row: Mapping[str, Any], kind: type[ConvNeXtConfig | Transform]) -> dict[str, Any]:  # Any: parsed TOML
    return {field.name: row[field.name] for field in fields(kind) if field.name in row}


def is_non_commercial(licence: str | None) -> bool:
    """Whether the name of a licence says that it forbids commercial use."""
    return licence is not None and ("-NC" in licence.upper() or "NONCOMMERCIAL" in licence.upper().replace("-", ""))


def fetch_weights(entry: WeightsEntry, cache_dir: Path | None = None) -> Path:
    """Returns the path of the entry's file, after fetching it if necessary. Raises ``DownloadError``."""
    path = entry.path(cache_dir)
    if not path.exists():
        if entry.url is None:
            raise DownloadError(f"{path} is missing: the package was installed without its embedded weights")
        fetch(entry.url, path, sha256=entry.sha256)
    return path


def verify_weights(entry: WeightsEntry, cache_dir: Path | None = None) -> str:
    """Returns the SHA-256 of the entry's file, after comparing it with the published or the recorded digest.

    Raises ``DownloadError`` if the file is missing or its digest differs.
    """
    path = entry.path(cache_dir)
    if not path.exists():
        raise DownloadError(f"{entry.name} has not been fetched: {path} does not exist")
    actual, recorded = sha256_of(path), digest_file(path)
    expected = entry.sha256 or (recorded.read_text() if recorded.exists() else "").partition(" ")[0]
    if not actual.startswith(expected):
        raise DownloadError(
            f"{path} is corrupt or a different file: its SHA-256 is {actual}, expected {expected}. "
            "Delete it to fetch it again."
        )
    return actual
