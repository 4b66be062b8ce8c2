import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from model import load_model
from model.checkpoints.load import inspect_checkpoint
from model.checkpoints.native import save_checkpoint
from training.calibration import fit_temperature
from training.data import Photos, load_train, split
from training.evaluate import SERVED
from training.export import export
from training.recipe import RECIPES, Recipe
from training.train import JOURNAL, evaluate, main, train
from training.trainer import CHECKPOINT, TRANSFORM, Trainer, build_network, predict_logits

CPU = torch.device("cpu")


def test_evaluate_returns_percentages() -> None:
    logits = torch.tensor([[3.0, 2, 1, 0, 0, 0], [3, 2, 1, 0, 0, -1], [3, 2, 1, 0, 0, -1], [0, 9, 0, 0, 0, 0]])
    figures = evaluate(logits, torch.tensor([0, 1, 5, 1]))
    assert (figures["held_out_top1"], figures["held_out_top5"]) == (50, 75)
    assert figures["held_out_loss"] > 0


def test_train_writes_journal_and_checkpoint_at_regular_steps(
    recipe: Recipe, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.train.RECORD_EVERY", 4)
    photos, held_out = split(load_train(data_dir), 2, seed=0)
    (tmp_path / JOURNAL).write_text("of another run\n")
    trainer = Trainer(recipe, photos, CPU)
    train(trainer, held_out, tmp_path)
    records = [json.loads(line) for line in (tmp_path / JOURNAL).read_text().splitlines()]
    assert records == trainer.journal
    assert [record["step"] for record in records] == [4, 8, 9]
    assert records[0]["epoch"] == pytest.approx(4 * 8 / 19)
    assert 0 <= records[-1]["held_out_top1"] <= records[-1]["held_out_top5"] == 100
    resumed = Trainer(recipe, photos, CPU)
    resumed.load(tmp_path / CHECKPOINT)
    assert (resumed.step, resumed.journal) == (9, records)


def test_export_writes_a_calibrated_float16_checkpoint(recipe: Recipe, data_dir: Path, tmp_path: Path) -> None:
    photos, held_out = split(load_train(data_dir), 2, seed=0)
    trainer = Trainer(recipe, photos, CPU)
    train(trainer, held_out, tmp_path)
    path = tmp_path / "served" / SERVED.name
    score = export(trainer, held_out, data_dir, path)
    model = load_model(path)
    assert (model.name, model.transform, model.labels[3]) == (SERVED.stem, TRANSFORM, "espresso")
    assert model.config == recipe.network
    assert model.top1 == pytest.approx(100 * score.top1, abs=0.01)
    assert inspect_checkpoint(path).dtypes == ("float16",)
    assert (path.parent / "training.png").stat().st_size > 1000
    assert score.images == 9
    logits, served = trainer.predict_logits(held_out), predict_logits(model.network, held_out, CPU)
    labels = held_out.labels
    assert float(logits.std() / served.std()) == pytest.approx(fit_temperature(logits, labels), rel=0.05)
    best = served / fit_temperature(served, labels)
    losses = [float(nn.functional.cross_entropy(values, labels)) for values in (served, best)]
    assert losses[0] == pytest.approx(losses[1], rel=0.01)  # no other temperature is better by more than rounding


def test_command_resumes_and_exports(
    recipe: Recipe, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(RECIPES, "cpu", recipe)
    options = ["--data", str(data_dir), "--run-dir", str(tmp_path), "--output", str(tmp_path / "served")]
    monkeypatch.setattr("sys.argv", ["train", *options, "--device", "cpu", "--steps", "4", "--decay-steps", "2"])
    photos, _ = split(load_train(data_dir), 2, seed=0)
    trainer = Trainer(recipe, photos, CPU)
    trainer.journal.append(trainer.train(2))
    trainer.save(tmp_path / CHECKPOINT)
    main()
    records = [json.loads(line) for line in (tmp_path / JOURNAL).read_text().splitlines()]
    assert [record["step"] for record in records] == [2, 4]
    assert records[0] == trainer.journal[0]
    assert load_model(tmp_path / "served" / SERVED.name).config == recipe.network


def test_command_starts_from_the_weights_of_a_model(
    recipe: Recipe, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(RECIPES, "cpu", replace(recipe, peak_lr=0.0))
    path = tmp_path / "start.safetensors"
    weights = build_network(replace(recipe, seed=5)).state_dict()
    save_checkpoint(path, weights, recipe.network, TRANSFORM, ("a", "b", "c", "d"), name="start", licence="")
    options = ["--data", str(data_dir), "--run-dir", str(tmp_path), "--output", str(tmp_path / "served")]
    monkeypatch.setattr("sys.argv", ["train", *options, "--device", "cpu", "--weights", str(path)])
    main()
    trained = load_model(tmp_path / "served" / SERVED.name).network.state_dict()
    torch.testing.assert_close(trained["stem.0.weight"], weights["stem.0.weight"], atol=1e-3, rtol=0)  # float16


def test_runs_of_all_seeds_hold_out_the_same_photos(
    recipe: Recipe, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(RECIPES, "cpu", recipe)
    held_out: list[Photos] = []
    monkeypatch.setattr("training.train.train", lambda _trainer, photos, _folder: held_out.append(photos))
    for seed in ("0", "1"):
        options = ["--data", str(data_dir), "--run-dir", str(tmp_path), "--output", str(tmp_path / "served")]
        monkeypatch.setattr("sys.argv", ["train", *options, "--device", "cpu", "--seed", seed])
        main()
    assert torch.equal(held_out[0].images, held_out[1].images)
