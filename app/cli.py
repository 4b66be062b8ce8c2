"""convnext-serve: serve | predict | weights; the options are the settings."""

import argparse
import difflib
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pydantic
from pydantic_core import ErrorDetails
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from app.main import build_engine, create_app
from app.server import bind
from app.server import serve as run_server
from app.serving.logs import configure_logging
from app.settings import PREFIX, Settings
from model.checkpoints.load import inspect_checkpoint
from model.checkpoints.registry import WeightsEntry, fetch_weights, registered_weights, verify_weights
from model.errors import CheckpointError, InvalidImage, ModelError, UnsupportedFormat
from model.inference.cpu import available_cores
from model.inference.engine import InferenceEngine
from model.prediction import top_predictions
from model.preprocess import Pixels, preprocess

Decoded = tuple[Path, Pixels | Exception]

_PREDICT = (
    *("model", "labels", "device", "runtime", "precision", "compile", "max_batch_size", "cache_dir"),
    *("top_k", "max_image_pixels", "decode_threads", "cpu_threads"),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit code: 0, 1 where something failed, 2 for wrong usage."""
    options = _parser().parse_args(arguments)
    given = {name: value for name, value in vars(options).items() if name in Settings.model_fields}
    try:
        code: int = options.run(Settings(**given), options)
    except pydantic.ValidationError as error:
        for item in error.errors():
            _complain(_setting_error(item))
        return 2
    except (ModelError, OSError) as error:
        _complain(str(error))
        return 1
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="convnext-serve", description="Classifies images with ConvNeXt.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    command = commands.add_parser("serve", help="serve predictions over HTTP")
    _add_settings(command, Settings.model_fields)
    command.set_defaults(run=_serve)
    command = commands.add_parser("predict", help="classify files without a server")
    command.add_argument("files", nargs="+", type=Path, metavar="FILE", help="an image")
    command.add_argument("--json", action="store_true", help="print JSON instead of a table")
    _add_settings(command, _PREDICT)
    command.set_defaults(run=_predict)
    _add_weights(commands.add_parser("weights", help="list, fetch, verify or look into weights"))
    return parser


def _add_weights(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    for name, run, what, text in (
        ("list", _list_weights, None, "the published weights that are known by name"),
        ("fetch", _fetch_weights, "NAME", "fetch weights into the cache folder"),
        ("verify", _verify_weights, "NAME", "hold fetched weights against their SHA-256"),
        ("show", _show_weights, "FILE", "what is in a checkpoint: family, size, classes, parameters"),
    ):
        action = actions.add_parser(name, help=text)
        if what is not None:
            action.add_argument("target", metavar=what)
        _add_settings(action, ("cache_dir",))
        action.set_defaults(run=run)


def _add_settings(command: argparse.ArgumentParser, names: Iterable[str]) -> None:
    """Makes an option of each setting; one that is not given is left to the environment and the default."""
    group = command.add_argument_group("settings", f"Each is also the environment variable {PREFIX}NAME.")
    for name in names:
        info = Settings.model_fields[name]
        text = (info.description or "").replace("%", "%%")
        if not info.is_required() and info.default not in (None, frozenset()):
            text += f" Default: {info.default}."
        flag = {"action": argparse.BooleanOptionalAction} if info.annotation is bool else {"metavar": name.upper()}
        group.add_argument(f"--{name.replace('_', '-')}", default=argparse.SUPPRESS, help=text, **flag)


def _serve(settings: Settings, _options: argparse.Namespace) -> int:
    logs = configure_logging(settings.log_format, settings.log_level, sys.stderr)
    with bind(settings.host, settings.port) as listener:
        app = create_app(settings, build_engine(settings))
        app.state.context.telemetry.watch_dropped_logs(lambda: logs.dropped)
        run_server(
            app,
            listener,
            grace_s=settings.shutdown_grace_s,
            max_connections=settings.max_connections,
            root_path=settings.root_path or "",
        )
    return 0


def _predict(settings: Settings, options: argparse.Namespace) -> int:
    configure_logging("text", "warning", sys.stderr)
    engine = build_engine(settings)
    top_k = min(settings.top_k, engine.num_classes)
    results: list[dict[str, Any]] = []
    console = Console(stderr=True)
    silent = len(options.files) < 2 or not console.is_terminal
    with Progress(console=console, transient=True, disable=silent) as progress:
        task = progress.add_task("classifying", total=len(options.files))
        for batch in _batches(options.files, engine, settings):
            results += _classify(engine, batch, top_k)
            progress.advance(task, len(batch))
    if options.json:
        print(json.dumps(results, indent=2, ensure_ascii=False))  # noqa: T201 - the command's output
    else:
        _print_table(results)
    return 1 if any("error" in result for result in results) else 0


def _batches(files: Sequence[Path], engine: InferenceEngine, settings: Settings) -> Iterator[list[Decoded]]:
    def decode(path: Path) -> Decoded:
        try:
            return path, preprocess(path.read_bytes(), engine.model.transform, settings.max_image_pixels)
        except (InvalidImage, UnsupportedFormat, OSError) as error:
            return path, error
        except MemoryError:
            return path, InvalidImage("There is not enough memory to decode the image.")

    with ThreadPoolExecutor(settings.decode_threads or available_cores()) as decoders:
        for start in range(0, len(files), engine.max_batch_size):
            yield list(decoders.map(decode, files[start : start + engine.max_batch_size]))


def _classify(engine: InferenceEngine, batch: Sequence[Decoded], top_k: int) -> list[dict[str, Any]]:
    """One JSON object a file: its predictions, or why there are none."""
    images = [pixels for _, pixels in batch if not isinstance(pixels, Exception)]
    rows = iter(engine.predict(images) if images else ())
    results: list[dict[str, Any]] = []
    for path, pixels in batch:
        if isinstance(pixels, Exception):
            results.append({"file": str(path), "error": str(pixels)})
            continue
        predictions = [asdict(item) for item in top_predictions(next(rows), engine.model.labels, top_k)]
        results.append({"file": str(path), "model": engine.model.name, "predictions": predictions})
    return results


def _print_table(results: Sequence[dict[str, Any]]) -> None:
    table = Table("file", "label", "probability")
    for result in results:
        if "error" in result:
            table.add_row(escape(result["file"]), f"[red]{escape(result['error'])}[/red]", "–")
        for place, one in enumerate(result.get("predictions", ())):
            table.add_row("" if place else escape(result["file"]), escape(one["label"]), f"{one['probability']:.1%}")
        table.add_section()
    Console().print(table)


def _list_weights(settings: Settings, _options: argparse.Namespace) -> int:
    table = Table("name", "top-1", "input", "licence", "fetched")
    for entry in registered_weights().values():
        top1 = f"{entry.top1:.1f} %" if entry.top1 else "–"
        size = str(entry.transform.crop_size) if entry.transform else "224"
        fetched = "yes" if entry.path(settings.cache_dir).exists() else ""
        table.add_row(entry.name, top1, size, entry.licence or "–", fetched)
    Console().print(table)
    return 0


def _fetch_weights(settings: Settings, options: argparse.Namespace) -> int:
    entry = _entry(options.target)
    Console().print(str(fetch_weights(entry, settings.cache_dir)), soft_wrap=True)
    return _verify_weights(settings, options)


def _verify_weights(settings: Settings, options: argparse.Namespace) -> int:
    Console().print(f"sha256 {verify_weights(_entry(options.target), settings.cache_dir)}", soft_wrap=True)
    return 0


def _show_weights(settings: Settings, options: argparse.Namespace) -> int:
    found = inspect_checkpoint(options.target, cache_dir=settings.cache_dir)
    table = Table(show_header=False)
    for name, value in (
        ("file", found.path),
        ("family", f"{found.family} ({found.container})"),
        ("network", f"ConvNeXt V{found.version} {found.size or 'of its own size'}"),
        ("depths, widths", f"{list(found.config.depths)}, {list(found.config.widths)}"),
        ("classes", found.config.num_classes),
        ("parameters", f"{found.parameters:,} ({', '.join(found.dtypes)})"),
    ):
        table.add_row(name, escape(str(value)))
    Console().print(table)
    return 0


def _entry(name: str) -> WeightsEntry:
    entries = registered_weights()
    if name not in entries:
        raise CheckpointError(f"{name} is not a registered model; the names are {', '.join(entries)}")
    return entries[name]


def _setting_error(error: ErrorDetails) -> str:
    if not error["loc"]:  # of several settings together
        return error["msg"]
    name = str(error["loc"][0]).upper().removeprefix(PREFIX)
    if error["type"] == "extra_forbidden":  # its value is not shown, as it may be a misspelled API_KEYS
        similar = difflib.get_close_matches(name.lower(), Settings.model_fields, n=1)
        hint = f"; did you mean {PREFIX}{similar[0].upper()}?" if similar else ""
        return f"{PREFIX}{name}: there is no such setting{hint}"
    return f"{PREFIX}{name}: {error['msg']} (found {error['input']!r})"


def _complain(message: str) -> None:
    print(f"convnext-serve: {message}", file=sys.stderr)  # noqa: T201 - the command's output
