"""convnext-serve weights: list, fetch, verify, show."""

import argparse
import json
import sys
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from app.settings import Settings
from model.checkpoints.load import inspect_checkpoint
from model.checkpoints.registry import WeightsEntry, fetch_weights, registered_weights, suggest_name, verify_weights
from model.errors import CheckpointError

Row = dict[str, Any]  # Any: JSON

_SHOWN_LABELS = 5


def run(settings: Settings, options: argparse.Namespace) -> int:
    """Runs ``options.action``."""
    actions = {"list": _list, "fetch": _fetch, "verify": _verify, "show": _show}
    return actions[options.action](settings, options)


def _list(settings: Settings, options: argparse.Namespace) -> int:
    """Lists the published weights."""
    rows = [_row(entry, settings) for entry in registered_weights().values()]
    if options.json:
        return _print_json(rows)
    table = Table("name", "top-1", "input", "licence", "fetched")
    for row in rows:
        top1 = f"{row['top1']:.1f} %" if row["top1"] else "-"
        table.add_row(row["name"], top1, str(row["input_size"]), row["licence"] or "-", "yes" if row["fetched"] else "")
    return _print_table(table)


def _fetch(settings: Settings, options: argparse.Namespace) -> int:
    """Downloads weights and verifies them."""
    print(fetch_weights(_entry(options.target), settings.cache_dir))  # noqa: T201 - the command's output
    return _verify(settings, options)


def _verify(settings: Settings, options: argparse.Namespace) -> int:
    """Compares weights with their digest."""
    print(f"sha256 {verify_weights(_entry(options.target), settings.cache_dir)}")  # noqa: T201 - the command's output
    return 0


def _show(settings: Settings, options: argparse.Namespace) -> int:
    """Describes registered weights, downloaded or not, or a checkpoint file."""
    entry = registered_weights().get(options.target)
    if entry is not None and not entry.path(settings.cache_dir).exists():
        row = _describe_entry(entry, settings)
    else:
        row = _describe_file(options.target, settings)
    if options.json:
        return _print_json(row)
    labels = row.pop("labels")
    more = f", … ({len(labels)})" if len(labels) > _SHOWN_LABELS else ""
    table = Table(show_header=False)
    for name, value in (row | {"labels": ", ".join(labels[:_SHOWN_LABELS]) + more}).items():
        table.add_row(name.replace("_", " "), escape(_cell(value)))
    return _print_table(table)


def _row(entry: WeightsEntry, settings: Settings) -> Row:
    """What the list has; the embedded model's facts are in its file."""
    fetched = entry.path(settings.cache_dir).exists()
    if entry.url is None:
        found = inspect_checkpoint(entry.name, cache_dir=settings.cache_dir)
        facts = {"top1": found.top1, "input_size": found.transform.crop_size, "licence": found.licence}
    else:
        size = entry.transform.crop_size if entry.transform else 224
        facts = {"top1": entry.top1, "input_size": size, "licence": entry.licence}
    return {"name": entry.name, **facts, "fetched": fetched}


def _describe_entry(entry: WeightsEntry, settings: Settings) -> Row:
    card = entry.card()
    config = entry.config
    return {
        **_row(entry, settings),
        "url": entry.url,
        "sha256": entry.sha256,
        "depths": list(config.depths) if config else None,
        "widths": list(config.widths) if config else None,
        "preprocessing": str(entry.transform),
        "labels": list(card.labels or ()),
    }


def _describe_file(target: str, settings: Settings) -> Row:
    found = inspect_checkpoint(target, cache_dir=settings.cache_dir)
    return {
        "name": found.name,
        "file": str(found.path),
        "family": f"{found.family} ({found.container})",
        "network": f"ConvNeXt V{found.version} {found.size or '(no published size)'}",
        "depths": list(found.config.depths),
        "widths": list(found.config.widths),
        "parameters": found.parameters,
        "output_function": found.activation,
        "dtypes": list(found.dtypes),
        "top1": found.top1,
        "licence": found.licence,
        "preprocessing": str(found.transform),
        "notes": list(found.notes),
        "labels": list(found.labels),
    }


def _entry(name: str) -> WeightsEntry:
    entries = registered_weights()
    if name not in entries:
        raise CheckpointError(f"{name} is not a published model; {suggest_name(name)}")
    return entries[name]


def _cell(value: object) -> str:
    if isinstance(value, list):
        separator = "\n" if any(isinstance(item, str) for item in value) else ", "
        return separator.join(map(str, value))
    return {"None": "-", "True": "yes", "False": "no"}.get(str(value), str(value))


def _print_json(value: object) -> int:
    print(json.dumps(value, indent=2, ensure_ascii=False))  # noqa: T201 - the command's output
    return 0


def _print_table(table: Table) -> int:
    """Prints a table, which is not cut off where the output is no terminal."""
    Console(width=None if sys.stdout.isatty() else 1000).print(table)
    return 0
