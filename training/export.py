"""Turns a run's averaged weights into the file that is served: calibrated, in half precision, with its card."""

import argparse
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from model.checkpoints.load import save_checkpoint
from model.convnext import ConvNeXt
from model.preprocess import Transform
from training.calibration import fit_temperature
from training.data import Photos, class_labels, load_train, split
from training.evaluate import PRETRAINED, SERVED, Score, score_file
from training.journal import read_journal
from training.plot import draw_run
from training.recipe import RECIPES, Recipe
from training.trainer import CHECKPOINT, JOURNAL, predict_logits

NAME = SERVED.stem
LICENCE = "Apache-2.0 (weights); trained on images under ImageNet's research terms"
# A sharp photo is first reduced to the detail of the training photos; training/detail.py measures the alternatives.
TRANSFORM = Transform(resize_size=224, crop_size=224, interpolation="bilinear", detail_size=64)


def fold_temperature(state: Mapping[str, Tensor], temperature: float) -> dict[str, Tensor]:
    """``state`` whose head gives logits divided by ``temperature``."""
    folded = dict(state)
    for key in ("head.fc.weight", "head.fc.bias"):
        folded[key] = folded[key] / temperature
    return folded


def calibrated(recipe: Recipe, state: Mapping[str, Tensor], held_out: Photos) -> tuple[dict[str, Tensor], float]:
    """float16 weights with the temperature of the held-out photos folded in, and that temperature."""
    network = ConvNeXt(recipe.config).eval()
    network.load_state_dict(dict(state))
    logits = predict_logits(network, held_out, TRANSFORM.crop_size, torch.device("cpu"))
    temperature = fit_temperature(logits, torch.from_numpy(held_out.labels))
    folded = fold_temperature(state, temperature)
    return {key: tensor.to(torch.float16) for key, tensor in folded.items()}, temperature


def export(run_dir: Path, data_dir: Path, recipe: Recipe, path: Path = SERVED) -> Score:
    """Writes the served file from the run's last checkpoint, measures it as it is served, and notes the accuracy."""
    checkpoint = torch.load(run_dir / CHECKPOINT, map_location="cpu", weights_only=True)
    photos = load_train(data_dir, run_dir / "cache")
    held_out = photos.take(split(photos.labels, recipe.held_out, recipe.seed)[1])
    state, temperature = calibrated(recipe, checkpoint["average"], held_out)
    metadata = {"temperature": f"{temperature:.4f}", "steps": str(checkpoint["step"]), "seed": str(recipe.seed)}
    labels = tuple(class_labels(data_dir))

    def save(extra: Mapping[str, str]) -> None:
        metadata.update(extra)
        save_checkpoint(path, state, recipe.config, TRANSFORM, labels, name=NAME, licence=LICENCE, metadata=metadata)

    path.parent.mkdir(parents=True, exist_ok=True)
    save({})
    score = score_file(path, data_dir)
    save({"top1": f"{score.top1:.2f}"})
    draw_run(read_journal(run_dir / JOURNAL), path.parent / "training.png")
    return score


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--run-dir", type=Path, default=Path("runs/train"))
    parser.add_argument("--recipe", choices=RECIPES, default="cpu")
    parser.add_argument("--output", type=Path, default=PRETRAINED)
    arguments = parser.parse_args()
    print(export(arguments.run_dir, arguments.data, RECIPES[arguments.recipe], arguments.output / SERVED.name))


if __name__ == "__main__":
    main()
