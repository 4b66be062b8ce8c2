from dataclasses import replace
from pathlib import Path

import pytest
import torch

from model.convnext import Block
from training.data import Photos
from training.recipe import Phase, Recipe
from training.trainer import Trainer, build_network, build_optimizers, predict_logits

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
    plain = replace(recipe, phases=(Phase(30, 64, 0.0, (1.0, 1.0)),), drop_path_rate=0.0, colour=0.0, grey=0.0)
    trainer = Trainer(plain, photos, CPU)
    while trainer.step < trainer.steps:
        trainer.advance()
    logits = predict_logits(trainer.network, photos, 64, CPU)
    assert logits.shape == (24, 4)
    assert logits.argmax(1).tolist() == photos.labels.tolist()


def test_an_epoch_shows_every_photo_once(recipe: Recipe, photos: Photos) -> None:
    trainer = Trainer(recipe, photos, CPU)
    orders = [trainer._permutation(epoch).tolist() for epoch in (0, 1)]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(24))
    assert orders[0] != orders[1]


def test_every_parameter_is_trained_and_those_of_one_dimension_do_not_decay(recipe: Recipe) -> None:
    network = build_network(recipe)
    groups = [group for optimizer in build_optimizers(network, recipe) for group in optimizer.param_groups]
    taken = [p for group in groups for p in group["params"]]
    assert {id(p) for p in taken} == {id(p) for p in network.parameters()}
    assert len(taken) == len(list(network.parameters()))
    for group in groups:
        decays = {p.ndim > 1 for p in group["params"]}
        assert decays == {group["weight_decay"] > 0}


@pytest.mark.parametrize("muon", [True, False])
def test_muon_takes_the_matrices_of_the_blocks_alone(recipe: Recipe, muon: bool) -> None:
    network = build_network(replace(recipe, muon=muon))
    optimizers = build_optimizers(network, replace(recipe, muon=muon))
    taken = [p for one in optimizers if isinstance(one, torch.optim.Muon) for p in one.param_groups[0]["params"]]
    mlps = [module.mlp for module in network.modules() if isinstance(module, Block)]
    expected = [layer.weight for mlp in mlps for layer in (mlp.fc1, mlp.fc2)] if muon else []
    assert list(map(id, taken)) == list(map(id, expected))


def test_layer_scale_starts_where_the_recipe_says(recipe: Recipe) -> None:
    gammas = [p for name, p in build_network(recipe).named_parameters() if name.endswith("gamma")]
    assert len(gammas) == 12
    assert all(gamma.detach().unique().tolist() == pytest.approx([recipe.layer_scale]) for gamma in gammas)
