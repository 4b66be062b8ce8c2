from pathlib import Path

import numpy as np
import pytest
import torch

from model import load_model
from model.checkpoint import describe
from training.calibration import fit_temperature
from training.data import load_train, split
from training.evaluate import score
from training.export import NAME, TRANSFORM, calibrated, export
from training.journal import Journal
from training.recipe import Recipe
from training.train import choose_recipe, measure, run
from training.trainer import JOURNAL, Trainer, predict_logits

CPU = torch.device("cpu")


def test_a_run_becomes_a_served_file(recipe: Recipe, data_dir: Path, tmp_path: Path) -> None:
    recipe = choose_recipe_of(recipe, epochs=1)
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


def choose_recipe_of(recipe: Recipe, epochs: int) -> Recipe:
    from dataclasses import replace

    return replace(recipe, phases=(replace(recipe.phases[0], epochs=epochs),))


def test_calibration_leaves_the_best_temperature_at_one(recipe: Recipe, data_dir: Path, tmp_path: Path) -> None:
    photos = load_train(data_dir, tmp_path)
    trainer = Trainer(recipe, photos, CPU)
    trainer.advance()
    state, _ = calibrated(recipe, trainer.average.state_dict(), photos)
    trainer.average.load_state_dict(state)
    logits = predict_logits(trainer.average, photos, TRANSFORM.crop_size, CPU)
    again = fit_temperature(logits, torch.from_numpy(photos.labels))
    assert again == pytest.approx(1, rel=0.1) or again > 9  # an untrained network may want to be as unsure as it can


def test_measure_is_in_percent(recipe: Recipe, data_dir: Path, tmp_path: Path) -> None:
    photos = load_train(data_dir, tmp_path)
    trainer = Trainer(recipe, photos, CPU)
    trainer.advance()
    figures = measure(trainer, photos)
    assert figures["input_size"] == TRANSFORM.crop_size
    assert 0 <= figures["held_out_top1"] <= figures["held_out_top5"] == 100


def test_score_counts_hits_among_the_likeliest() -> None:
    probabilities = np.array([[0.6, 0.4], [0.8, 0.2], [1.0, 0.0], [1.0, 0.0]], np.float32)
    class_ids = np.array([[0, 1], [0, 1], [0, 1], [1, 0]])
    result = score(probabilities, class_ids, np.array([0, 1, 2, 1]))
    assert (result.top1, result.top5, result.photos) == (50, 75, 4)
    assert result.calibration_error == pytest.approx(100 * (0.4 + 0.8 + 1.0) / 4, abs=1e-4)


def test_recipes_are_chosen_by_name_and_changed_by_options() -> None:
    recipe = choose_recipe("cpu", [1, 2, 3], 7)
    assert [phase.epochs for phase in recipe.phases] == [1, 2, 3]
    assert recipe.seed == 7
    with pytest.raises(ValueError, match="zip"):
        choose_recipe("cpu", [1], None)


def test_a_journal_of_another_run_is_not_continued(recipe: Recipe, data_dir: Path, tmp_path: Path) -> None:
    photos = load_train(data_dir, tmp_path)
    journal = Journal(tmp_path / JOURNAL)
    journal.write({"step": 999, "loss": 1.0})
    run(Trainer(choose_recipe_of(recipe, 1), photos, CPU), photos, tmp_path)
    assert "999" not in (tmp_path / JOURNAL).read_text()
