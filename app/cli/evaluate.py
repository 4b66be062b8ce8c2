"""convnext-serve evaluate: the accuracy of the served model on labelled photos, processed as in a request."""

import argparse
import csv
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from rich.progress import track

from app.cli.output import print_error, reason
from app.cli.predict import SUFFIXES, Logits, classify_files
from app.logs import configure_logging
from app.main import build_engine
from app.settings import Settings
from model.errors import CheckpointError
from model.evaluation import NO_LABEL, evaluate_sigmoid, evaluate_softmax
from model.head import scores
from model.inference.engine import InferenceEngine

Photo = tuple[str, str]  # file, name of its class


def run(settings: Settings, options: argparse.Namespace) -> int:
    """Evaluates ``options.folder``; returns 1 if there was nothing to evaluate or a photo could not be classified."""
    configure_logging("text", "warning", sys.stderr)
    photos = _read_photos(options.folder)
    if options.output is not None:
        options.output.open("a").close()  # an error now, not after the evaluation
    engine = build_engine(settings)
    classes = match_labels(sorted({name for _, name in photos}), engine.model.labels)
    unmatched = sorted({name for _, name in photos} - classes.keys())
    is_binary = len(engine.model.labels) == 1 and classes
    if unmatched:
        treatment = f"are counted as not {engine.model.labels[0]}" if is_binary else "are left out"
        print_error(f"no label matches {', '.join(unmatched[:10])} ({len(unmatched)} names); their photos {treatment}")
    classes |= dict.fromkeys(unmatched, NO_LABEL) if is_binary else {}
    known = {file: classes[name] for file, name in photos if name in classes}
    if not known:
        raise CheckpointError(f"{options.folder} has no photos whose class the model has")
    logits = _classify(engine, settings, list(known))
    if not logits:
        raise CheckpointError(f"{options.folder} has no photo that can be classified")
    probabilities = scores(np.stack(list(logits.values())), engine.model.activation)  # (N, num_classes)
    truth = np.array([known[file] for file in logits])  # (N,) int64
    _print_report(engine, probabilities, truth)
    if options.output is not None:
        _write_photos(options.output, engine.model.labels, list(logits), probabilities, truth)
    return 1 if len(logits) < len(known) else 0


def match_labels(names: Sequence[str], labels: Sequence[str]) -> dict[str, int]:
    """The class of each name that is a label, regardless of case, spaces and underscores, or the first of its synonyms.

    A name that fits several labels is left out.
    """
    found: dict[str, set[int]] = {}
    for index, label in enumerate(labels):
        for form in {_normalize(label), _normalize(label.partition(",")[0])}:
            found.setdefault(form, set()).add(index)
    exact = {label: index for index, label in enumerate(labels) if labels.count(label) == 1}
    matches = {name: found.get(_normalize(name), set()) for name in names}
    single = {name: next(iter(indices)) for name, indices in matches.items() if len(indices) == 1}
    return single | {name: exact[name] for name in names if name in exact}


def _normalize(name: str) -> str:
    return " ".join(name.replace("_", " ").replace("-", " ").casefold().split())


def _read_photos(path: Path) -> list[Photo]:
    """The photos of a folder with one folder per class, or of a CSV file with the columns file and label."""
    if path.is_dir():
        found = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES)
        return [(str(file), file.relative_to(path).parts[0]) for file in found if file.parent != path]
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            rows = [row for row in csv.reader(stream) if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise CheckpointError(f"{path} is neither a folder nor a CSV file in UTF-8") from error
    if any(len(row) != 2 for row in rows):
        raise CheckpointError(f"{path} must have two columns, file and label")
    body = rows[1:] if rows and [cell.strip().lower() for cell in rows[0]] == ["file", "label"] else rows
    return [(str(path.parent / file), label) for file, label in body]


def _classify(engine: InferenceEngine, settings: Settings, files: Sequence[str]) -> dict[str, Logits]:
    """The logits of the files that can be classified."""
    results = classify_files(iter(files), engine, settings)
    found: dict[str, Logits] = {}
    for file, result in track(results, "evaluating", len(files), disable=not sys.stderr.isatty()):
        if isinstance(result, Exception):
            print_error(f"{file}: {reason(result)}")
        else:
            found[file] = result
    return found


def _print_report(
    engine: InferenceEngine, probabilities: npt.NDArray[np.float32], truth: npt.NDArray[np.int64]
) -> None:
    labels = engine.model.labels
    if engine.model.activation == "sigmoid":
        rows = evaluate_sigmoid(probabilities, truth, labels)
        lines = [f"photos: {len(truth)}; precision and recall of each label at 0.5"]
        lines += [f"  {_percent(row.precision)} {_percent(row.recall)}  {row.label} ({row.images})" for row in rows]
    else:
        report = evaluate_softmax(probabilities, truth, labels)
        lines = [
            f"photos: {report.images}",
            f"top-1 {report.top1:.2%}, top-5 {report.top5:.2%}, calibration error {report.calibration_error:.2%}",
            "worst classes",
            *(f"  {row.recall:7.2%}  {row.label} ({row.images})" for row in report.worst),
            "most frequent confusions",
            *(f"  {row.images:7}  {row.label} → {row.predicted}" for row in report.confusions),
        ]
    print("\n".join(lines))  # noqa: T201 - the command's output


def _percent(share: float | None) -> str:
    return "      -" if share is None else f"{share:7.2%}"


def _write_photos(
    path: Path,
    labels: Sequence[str],
    files: Sequence[str],
    probabilities: npt.NDArray[np.float32],
    truth: npt.NDArray[np.int64],
) -> None:
    """A row per photo: its class, the most probable class and that probability."""
    first = probabilities.argmax(1)
    with path.open("w", encoding="utf-8", errors="surrogateescape", newline="") as stream:
        rows = csv.writer(stream, lineterminator="\n")
        rows.writerow(("file", "label", "predicted", "probability"))
        for file, actual, predicted, row in zip(files, truth, first, probabilities, strict=True):
            label = "" if actual == NO_LABEL else labels[actual]
            rows.writerow((file, label, labels[predicted], float(row[predicted])))
