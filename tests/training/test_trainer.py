from pathlib import Path

import pytest
import torch

from training.data import Photos
from training.recipe import Recipe
from training.trainer import Trainer, build_network, build_optimizer, predict_logits

CPU = torch.device("cpu")


def weights(trainer: Trainer) -> list[torch.Tensor]:
    return [*trainer.network.state_dict().values(), *trainer.average.state_dict().values()]


def test_a_resumed_run_is_the_run_that_was_never_interrupted(recipe: Recipe, photos: Photos, tmp_path: Path) -> None:
    straight = Trainer(recipe, photos, CPU)
    for _ in range(7):  # across an epoch's end (3 steps) and a change of input size (6)
        straight.advance()
    first = Trainer(recipe, photos, CPU)
    for _ in range(4):
        first.advance()
    first.save(tmp_path / "checkpoint.pt")
    second = Trainer(recipe, photos, CPU)
    second.load(tmp_path / "checkpoint.pt")
    losses = [second.advance()[0] for _ in range(3)]
    assert second.step == straight.step == 7
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(weights(second), weights(straight), strict=True))
    assert len(set(losses)) == 3


def test_training_learns_the_photos_by_heart(recipe: Recipe, photos: Photos) -> None:
    trainer = Trainer(recipe, photos, CPU)
    before = predict_logits(trainer.network, photos, 64, CPU)
    while trainer.step < trainer.steps:
        trainer.advance()
    after = predict_logits(trainer.network, photos, 64, CPU)
    labels = torch.from_numpy(photos.labels)
    loss = torch.nn.functional.cross_entropy
    assert before.shape == (24, 4)
    assert loss(after, labels) < loss(before, labels)


def test_an_epoch_shows_every_photo_once(recipe: Recipe, photos: Photos) -> None:
    trainer = Trainer(recipe, photos, CPU)
    orders = [trainer._permutation(epoch).tolist() for epoch in (0, 1)]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(24))
    assert orders[0] != orders[1]


def test_every_parameter_is_trained_and_those_of_one_dimension_do_not_decay(recipe: Recipe) -> None:
    network = build_network(recipe)
    groups = build_optimizer(network, recipe).param_groups
    taken = [p for group in groups for p in group["params"]]
    assert {id(p) for p in taken} == {id(p) for p in network.parameters()}
    assert len(taken) == len(list(network.parameters()))
    for group in groups:
        decays = {p.ndim > 1 for p in group["params"]}
        assert decays == {group["weight_decay"] > 0}


def test_layer_scale_starts_where_the_recipe_says(recipe: Recipe) -> None:
    gammas = [p for name, p in build_network(recipe).named_parameters() if name.endswith("gamma")]
    assert len(gammas) == 12
    assert all(gamma.detach().unique().tolist() == pytest.approx([recipe.layer_scale]) for gamma in gammas)
