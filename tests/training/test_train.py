from dataclasses import replace
from pathlib import Path

import pytest
import torch

from training.data import load_train
from training.export import TRANSFORM
from training.journal import Journal
from training.recipe import Recipe
from training.train import choose_recipe, measure, run
from training.trainer import JOURNAL, Trainer

CPU = torch.device("cpu")


def test_recipes_are_chosen_by_name_and_changed_by_options() -> None:
    recipe = choose_recipe("cpu", [1, 2, 3], 7)
    assert [phase.epochs for phase in recipe.phases] == [1, 2, 3]
    assert recipe.seed == 7
    with pytest.raises(ValueError, match="zip"):
        choose_recipe("cpu", [1], None)


def test_measure_is_in_percent(recipe: Recipe, data_dir: Path, tmp_path: Path) -> None:
    photos = load_train(data_dir, tmp_path)
    trainer = Trainer(recipe, photos, CPU)
    trainer.advance()
    figures = measure(trainer, photos)
    assert figures["input_size"] == TRANSFORM.crop_size
    assert 0 <= figures["held_out_top1"] <= figures["held_out_top5"] == 100


def test_a_journal_of_another_run_is_not_continued(recipe: Recipe, data_dir: Path, tmp_path: Path) -> None:
    photos = load_train(data_dir, tmp_path)
    journal = Journal(tmp_path / JOURNAL)
    journal.write({"step": 999, "loss": 1.0})
    run(Trainer(replace(recipe, phases=recipe.phases[1:]), photos, CPU), photos, tmp_path)
    assert "999" not in (tmp_path / JOURNAL).read_text()
