"""The command convnext-serve: serve, predict, evaluate and weights."""

import argparse
import difflib
import importlib
import io
import os
import sys
import tempfile
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pydantic
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from app.cli.output import print_error, reason
from app.settings import PREFIX, Settings
from model.errors import ModelError

INTERRUPTED = 130  # 128 + SIGINT, as a shell reports it
BROKEN_PIPE = 141  # 128 + SIGPIPE
_DEFAULTS = {"True": "on", "False": "off"}
_KERNEL_CACHES = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")

_PREDICT = (
    *("model", "labels", "activation", "ema", "device", "runtime", "precision", "compile", "max_batch_size"),
    *("cache_dir", "top_k", "max_image_pixels", "decode_threads", "cpu_threads"),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit code: 0, 1 if something failed, 2 for wrong usage.

    130 after Ctrl-C, and 141 if the reader of the output has stopped.
    """
    _prepare_streams()
    _check_kernel_caches()
    options = _parser().parse_args(arguments)
    given = {name: value for name, value in vars(options).items() if name in Settings.model_fields}
    try:
        settings = Settings(**given)
        # The commands import torch, which takes seconds; --help and errors need not wait.
        code: int = importlib.import_module(f"app.cli.{options.command}").run(settings, options)
    except pydantic.ValidationError as error:
        for item in error.errors():
            print_error(_setting_error(item))
        return 2
    except BrokenPipeError:  # the reader of the output, such as head, has stopped
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes it at exit
        return BROKEN_PIPE
    except OSError as error:
        print_error(f"{error.filename}: {reason(error)}" if error.filename else reason(error))
        return 1
    except ModelError as error:
        print_error(str(error))
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED
    return code


def _prepare_streams() -> None:
    """Reads file names, and writes to consoles that are not UTF-8."""
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(encoding=sys.getfilesystemencoding(), errors="surrogateescape")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _check_kernel_caches() -> None:
    """Ignores a folder for compiled kernels that cannot be written, without which torch could not be imported."""
    for name in _KERNEL_CACHES:
        try:
            if name in os.environ:
                Path(os.environ[name]).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            del os.environ[name]
            print_error(f"{name} is ignored, compiled kernels are kept in {tempfile.gettempdir()}: {error}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="convnext-serve", description="Classifies images with ConvNeXt.")
    parser.add_argument("--version", action="version", version=version("convnext-serve"))
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    command = commands.add_parser("serve", help="serve predictions over HTTP")
    _add_settings(command, Settings.model_fields)
    command = commands.add_parser("predict", help="classify files without a server")
    command.add_argument(
        "files", nargs="+", metavar="FILE", help="an image, a folder of images, or - for names on standard input"
    )
    command.add_argument("--json", action="store_true", help="print one JSON object per image and line")
    command.add_argument(
        "--output",
        type=Path,
        metavar="OUTPUT",
        help="append the results to a .jsonl or .csv file, and skip images that are already in it",
    )
    _add_settings(command, _PREDICT)
    command = commands.add_parser("evaluate", help="compare the model with labelled photos")
    command.add_argument(
        "folder", type=Path, metavar="FOLDER", help="one folder of photos per class, or a CSV file of file and label"
    )
    command.add_argument("--output", type=Path, metavar="OUTPUT", help="write a row per photo to this CSV file")
    _add_settings(command, tuple(name for name in _PREDICT if name != "top_k"))
    _add_weights(commands.add_parser("weights", help="list, download, verify or inspect weights"))
    return parser


def _add_weights(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(required=True, metavar="ACTION", dest="action")
    published = "a published model; weights list shows them"
    any_model = "a published model, the path of a checkpoint, or OWNER/NAME of the Hugging Face Hub"
    for name, target, text in (
        ("list", None, "list the published weights"),
        ("fetch", published, "download weights into the cache folder"),
        ("verify", published, "compare downloaded weights with their SHA-256"),
        ("show", any_model, "show what published weights or a checkpoint contain"),
    ):
        action = actions.add_parser(name, help=text)
        if target is not None:
            action.add_argument("target", metavar="NAME", help=target)
        if name in ("list", "show"):
            action.add_argument("--json", action="store_true", help="print JSON")
        _add_settings(action, ("cache_dir",))


def _add_settings(command: argparse.ArgumentParser, names: Iterable[str]) -> None:
    """Makes an option of each setting; one that is not given is left to the environment and the default."""
    group = command.add_argument_group("settings", f"Each is also the environment variable {PREFIX}NAME.")
    for name in names:
        info = Settings.model_fields[name]
        text = (info.description or "").replace("%", "%%")
        if not info.is_required() and info.default not in (None, frozenset()):
            text += f" Default: {_DEFAULTS.get(str(info.default), info.default)}."
        flag: dict[str, Any] = {"metavar": _metavar(name, info)}  # Any: argparse's arguments
        if info.annotation is bool:
            flag = {"action": argparse.BooleanOptionalAction}
        group.add_argument(f"--{name.replace('_', '-')}", default=argparse.SUPPRESS, help=text, **flag)


def _metavar(name: str, info: FieldInfo) -> str:
    """The allowed values of a choice, or the name."""
    if get_origin(info.annotation) is Literal:
        return f"{{{','.join(get_args(info.annotation))}}}"
    return name.upper()


def _setting_error(error: ErrorDetails) -> str:
    message = error["msg"].removeprefix("Value error, ")
    if not error["loc"]:  # of several settings together
        return message
    name = str(error["loc"][0]).upper().removeprefix(PREFIX)
    if error["type"] == "extra_forbidden":  # its value is not shown, as it may be a misspelled API_KEYS
        similar = difflib.get_close_matches(name.lower(), Settings.model_fields, n=1)
        hint = f"; did you mean {PREFIX}{similar[0].upper()}?" if similar else ""
        return f"{PREFIX}{name}: there is no such setting{hint}"
    if error["type"] == "string_pattern_mismatch":
        message = f"expected: {(Settings.model_fields[name.lower()].description or '').removesuffix('.')}"
    return f"{PREFIX}{name}: {message} (found {error['input']!r})"
