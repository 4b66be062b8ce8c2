import pytest
import torch
from torch import distributed, nn

from training.data import Photos
from training.recipe import Recipe
from training.team import Team
from training.trainer import Trainer


def shown(trainer: Trainer) -> list[int]:
    """How often each class is in the first batch."""
    _, targets = trainer._batch(torch.Generator(), trainer.recipe.phase_at(2))  # a phase without mixing
    return targets.sum(0).round().int().tolist()


def test_members_share_out_each_batch(recipe: Recipe, photos: Photos) -> None:
    alone = shown(Trainer(recipe, photos, torch.device("cpu")))
    parts = [shown(Trainer(recipe, photos, torch.device("cpu"), team=Team(rank, 2))) for rank in (0, 1)]
    assert [sum(part) for part in parts] == [4, 4]
    assert [first + second for first, second in zip(*parts, strict=True)] == alone


def test_gradients_become_the_mean_of_all_members(monkeypatch: pytest.MonkeyPatch) -> None:
    network = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3))
    network(torch.ones(1, 2)).square().sum().backward()
    own = [p.grad.clone() for p in network.parameters() if p.grad is not None]

    def add_another_member(flat: torch.Tensor) -> None:
        flat += 2.0  # every gradient of the other one is 2

    monkeypatch.setattr(distributed, "all_reduce", add_another_member)
    Team(0, 2).average_gradients(network)
    for before, p in zip(own, network.parameters(), strict=True):
        assert p.grad is not None
        assert torch.allclose(p.grad, (before + 2) / 2)


def test_one_member_keeps_its_gradients() -> None:
    network = nn.Linear(2, 3)
    network(torch.ones(1, 2)).sum().backward()
    Team().average_gradients(network)
    assert network.bias.grad is not None
    assert network.bias.grad.tolist() == [1, 1, 1]
