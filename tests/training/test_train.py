import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from model import load_model
from model.checkpoints.load import inspect_checkpoint
from training.calibration import fit_temperature
from training.data import load_train, split
from training.evaluate import SERVED
from training.export import TRANSFORM, export
from training.recipe import RECIPES, Recipe
from training.train import JOURNAL, evaluate, main, train
from training.trainer import CHECKPOINT, Trainer, predict_logits

CPU = torch.device("cpu")


def test_evaluate_returns_percentages() -> None:
    logits = torch.tensor([[3.0, 2, 1, 0, 0, 0], [3, 2, 1, 0, 0, -1], [3, 2, 1, 0, 0, -1], [0, 9, 0, 0, 0, 0]])
    figures = evaluate(logits, torch.tensor([0, 1, 5, 1]))
    assert (figures["held_out_top1"], figures["held_out_top5"]) == (50, 75)
    assert figures["held_out_loss"] > 0


def test_train_writes_journal_and_checkpoint_of_every_epoch(recipe: Recipe, data_dir: Path, tmp_path: Path) -> None:
    photos, held_out = split(load_train(data_dir, TRANSFORM), 2, seed=0)
    (tmp_path / JOURNAL).write_text("of another run\n")
    trainer = Trainer(recipe, photos, CPU)
    train(trainer, held_out, tmp_path)
    records = [json.loads(line) for line in (tmp_path / JOURNAL).read_text().splitlines()]
    assert records == trainer.journal
    assert [(record["epoch"], record["step"]) for record in records] == [(1, 2), (2, 4), (3, 6)]
    assert 0 <= records[-1]["held_out_top1"] <= records[-1]["held_out_top5"] == 100
    resumed = Trainer(recipe, photos, CPU)
    resumed.load(tmp_path / CHECKPOINT)
    assert (resumed.epoch, resumed.journal) == (3, records)


def test_export_writes_a_calibrated_float16_checkpoint(recipe: Recipe, data_dir: Path, tmp_path: Path) -> None:
    photos, held_out = split(load_train(data_dir, TRANSFORM), 2, seed=0)
    trainer = Trainer(recipe, photos, CPU)
    train(trainer, held_out, tmp_path)
    path = tmp_path / "served" / SERVED.name
    score = export(trainer, held_out, data_dir, path)
    model = load_model(path)
    assert (model.name, model.transform, model.labels[3]) == (SERVED.stem, TRANSFORM, "espresso")
    assert model.config == recipe.network
    assert model.top1 == pytest.approx(score.top1, abs=0.01)
    assert inspect_checkpoint(path).dtypes == ("float16",)
    assert (path.parent / "training.png").stat().st_size > 1000
    assert score.photos == 9
    logits, served = trainer.predict_logits(held_out), predict_logits(model.network, held_out, CPU)
    labels = torch.from_numpy(held_out.labels)
    assert float(logits.std() / served.std()) == pytest.approx(fit_temperature(logits, labels), rel=0.05)
    best = served / fit_temperature(served, labels)
    losses = [float(nn.functional.cross_entropy(values, labels)) for values in (served, best)]
    assert losses[0] == pytest.approx(losses[1], rel=0.01)  # no other temperature is better by more than rounding


def test_command_resumes_and_exports(
    recipe: Recipe, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(RECIPES, "cpu", recipe)
    options = ["--data", str(data_dir), "--run-dir", str(tmp_path), "--output", str(tmp_path / "served")]
    monkeypatch.setattr("sys.argv", ["train", *options, "--workers", "0", "--device", "cpu", "--epochs", "2"])
    photos, _ = split(load_train(data_dir, TRANSFORM), 2, seed=0)
    trainer = Trainer(replace(recipe, epochs=2), photos, CPU)
    trainer.journal.append(trainer.train_epoch())
    trainer.save(tmp_path / CHECKPOINT)
    main()
    records = [json.loads(line) for line in (tmp_path / JOURNAL).read_text().splitlines()]
    assert [record["epoch"] for record in records] == [1, 2]
    assert records[0] == trainer.journal[0]
    assert load_model(tmp_path / "served" / SERVED.name).config == recipe.network
