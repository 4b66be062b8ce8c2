from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import distributed
from torch.multiprocessing.spawn import start_processes
from torchvision.transforms import v2

from model.convnext import Block
from training.data import Photos, augmentation, normalize
from training.recipe import Phase, Recipe
from training.trainer import Trainer, build_network, build_optimizers, predict_logits

CPU = torch.device("cpu")


class RecordingList(list[bytes]):
    """Encoded photos that record the indices they are read at."""

    def __init__(self, items: list[bytes]) -> None:
        super().__init__(items)
        self.read: list[int] = []

    def __getitem__(self, index: int) -> bytes:  # type: ignore[override]  # slices are not read here
        self.read.append(index)
        return super().__getitem__(index)


def weights(trainer: Trainer) -> list[torch.Tensor]:
    return [*trainer.network.state_dict().values(), *trainer.average.state_dict().values()]


def test_resumed_run_equals_uninterrupted_run(recipe: Recipe, photos: Photos, tmp_path: Path) -> None:
    uninterrupted = Trainer(recipe, photos, CPU)
    losses = [uninterrupted.train_epoch()["loss"] for _ in range(3)]  # the last epoch has another input size
    first = Trainer(recipe, photos, CPU)
    first.train_epoch()
    first.save(tmp_path / "checkpoint.pt")
    second = Trainer(recipe, photos, CPU)
    second.load(tmp_path / "checkpoint.pt")
    assert [second.train_epoch()["loss"] for _ in range(2)] == losses[1:]
    assert second.epoch == uninterrupted.epoch == 3
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(weights(second), weights(uninterrupted), strict=True))
    assert len(set(losses)) == 3


def test_load_rejects_a_checkpoint_of_another_recipe(recipe: Recipe, photos: Photos, tmp_path: Path) -> None:
    Trainer(recipe, photos, CPU).save(tmp_path / "checkpoint.pt")
    with pytest.raises(ValueError, match="different recipe"):
        Trainer(replace(recipe, seed=1), photos, CPU).load(tmp_path / "checkpoint.pt")


def test_training_memorizes_the_photos(recipe: Recipe, photos: Photos) -> None:
    phase = Phase(1.0, 64, (1.0, 1.0))
    plain = replace(recipe, epochs=30, phases=(phase,), cutmix=0.0, color_jitter=0.0, grayscale=0.0, peak_lr=1e-2)
    plain = replace(plain, network=replace(plain.network, drop_path_rate=0.0))
    trainer = Trainer(plain, photos, CPU)
    for _ in range(plain.epochs):
        trainer.train_epoch()
    transform = v2.Compose([augmentation(plain, phase), normalize])
    logits = predict_logits(trainer.network.eval(), replace(photos, transform=transform), CPU)
    assert logits.shape == (24, 4)
    assert logits.argmax(1).tolist() == photos.labels.tolist()


def test_each_epoch_reads_every_photo_once_in_another_order(recipe: Recipe, photos: Photos) -> None:
    encoded = RecordingList(list(photos.encoded))
    trainer = Trainer(recipe, replace(photos, encoded=encoded), CPU)
    for _ in range(2):
        trainer.train_epoch()
    first, second = encoded.read[:24], encoded.read[24:]
    assert sorted(first) == sorted(second) == list(range(24))
    assert first != second


def train_in_group(rank: int, recipe: Recipe, photos: Photos, folder: Path) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    encoded = RecordingList(list(photos.encoded))
    trainer = Trainer(recipe, replace(photos, encoded=encoded), CPU)
    trainer.train_epoch()
    torch.save((encoded.read, weights(trainer)), folder / f"{rank}.pt")
    distributed.destroy_process_group()


def test_processes_share_the_photos_and_keep_the_same_weights(recipe: Recipe, photos: Photos, tmp_path: Path) -> None:
    start_processes(train_in_group, (recipe, photos, tmp_path), nprocs=2, start_method="fork")  # type: ignore[no-untyped-call]  # torch
    (first_read, first), (second_read, second) = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    assert len(first_read) == len(second_read) == 12
    assert sorted([*first_read, *second_read]) == list(range(24))
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(first, second, strict=True))


def test_optimizers_cover_every_parameter_and_do_not_decay_vectors(recipe: Recipe) -> None:
    network = build_network(recipe)
    groups = [group for optimizer in build_optimizers(network, recipe) for group in optimizer.param_groups]
    covered = [weight for group in groups for weight in group["params"]]
    assert {id(weight) for weight in covered} == {id(weight) for weight in network.parameters()}
    assert len(covered) == len(list(network.parameters()))
    for group in groups:
        assert {weight.ndim > 1 for weight in group["params"]} == {group["weight_decay"] > 0}


def test_muon_optimizes_the_matrices_of_the_blocks_only(recipe: Recipe) -> None:
    network = build_network(recipe)
    (muon,) = (optimizer for optimizer in build_optimizers(network, recipe) if isinstance(optimizer, torch.optim.Muon))
    mlps = [module.mlp for module in network.modules() if isinstance(module, Block)]
    expected = [layer.weight for mlp in mlps for layer in (mlp.fc1, mlp.fc2)]
    assert list(map(id, muon.param_groups[0]["params"])) == list(map(id, expected))


def test_layer_scale_starts_at_the_value_of_the_recipe(recipe: Recipe) -> None:
    gammas = [weight for name, weight in build_network(recipe).named_parameters() if name.endswith("gamma")]
    assert len(gammas) == 3
    assert all(gamma.tolist() == pytest.approx([recipe.layer_scale] * len(gamma)) for gamma in gammas)
