from dataclasses import replace
from pathlib import Path

import pytest
import torch

from model import load_model
from model.checkpoints.load import describe
from training.calibration import fit_temperature
from training.data import load_train, split
from training.export import NAME, TRANSFORM, calibrated, export
from training.recipe import Recipe
from training.train import run
from training.trainer import Trainer, predict_logits

CPU = torch.device("cpu")


def test_a_run_becomes_a_served_file(recipe: Recipe, data_dir: Path, tmp_path: Path) -> None:
    recipe = replace(recipe, phases=recipe.phases[1:])
    run_dir, served = tmp_path / "run", tmp_path / "served" / f"{NAME}.safetensors"
    photos = load_train(data_dir, run_dir / "cache")
    train, held_out = split(photos.labels, recipe.held_out, recipe.seed)
    trainer = Trainer(recipe, photos.take(train), CPU)
    run(trainer, photos.take(held_out), run_dir)
    result = export(run_dir, data_dir, recipe, served)
    model = load_model(served)
    assert (model.name, model.transform, model.labels[3]) == (NAME, TRANSFORM, "espresso")
    assert model.config == recipe.config
    assert model.top1 == pytest.approx(result.top1, abs=0.01)
    assert describe(served).dtypes == ("float16",)
    assert (served.parent / "training.png").stat().st_size > 1000
    assert result.photos == 9
    logits = predict_logits(trainer.average, photos.take(held_out), 224, CPU)
    folded = predict_logits(model.network, photos.take(held_out), 224, CPU)
    ratio = float(logits.std() / folded.std())
    assert ratio == pytest.approx(fit_temperature(logits, torch.from_numpy(photos.labels[held_out])), rel=0.05)


def test_calibration_leaves_the_best_temperature_at_one(recipe: Recipe, data_dir: Path, tmp_path: Path) -> None:
    photos = load_train(data_dir, tmp_path)
    trainer = Trainer(recipe, photos, CPU)
    trainer.advance()
    state, _ = calibrated(recipe, trainer.average.state_dict(), photos)
    trainer.average.load_state_dict(state)
    logits = predict_logits(trainer.average, photos, TRANSFORM.crop_size, CPU)
    again = fit_temperature(logits, torch.from_numpy(photos.labels))
    assert again == pytest.approx(1, rel=0.1) or again > 9  # an untrained network may want to be as unsure as it can
