from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import distributed, nn
from torch.multiprocessing.spawn import start_processes
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from model.convnext import Block
from training.data import Photos
from training.recipe import Phase, Recipe
from training.trainer import (
    TRANSFORM,
    Trainer,
    batch_indices,
    build_network,
    build_optimizers,
    predict_logits,
    update_average,
)

CPU = torch.device("cpu")


def weights(trainer: Trainer) -> list[torch.Tensor]:
    return [*trainer.network.state_dict().values(), *trainer.average.state_dict().values()]


def test_resumed_run_equals_uninterrupted_run(recipe: Recipe, photos: Photos, tmp_path: Path) -> None:
    uninterrupted = Trainer(recipe, photos, CPU)
    losses = [uninterrupted.train(steps)["loss"] for steps in (2, 5, 2)]  # the last steps have another input size
    first = Trainer(recipe, photos, CPU)
    first.train(2)
    first.save(tmp_path / "checkpoint.pt")
    second = Trainer(recipe, photos, CPU)
    second.load(tmp_path / "checkpoint.pt")
    assert [second.train(steps)["loss"] for steps in (5, 2)] == losses[1:]
    assert second.step == uninterrupted.step == 9
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(weights(second), weights(uninterrupted), strict=True))


def test_decay_can_start_at_any_checkpoint(recipe: Recipe, photos: Photos, tmp_path: Path) -> None:
    stable = Trainer(recipe, photos, CPU)
    stable.train(2)
    stable.save(tmp_path / "checkpoint.pt")
    branch = Trainer(replace(recipe, steps=4, decay_steps=2), photos, CPU)
    branch.load(tmp_path / "checkpoint.pt")
    assert branch.train(2)["lr"] == pytest.approx(recipe.peak_lr / 2)


def test_load_rejects_a_checkpoint_of_another_recipe(recipe: Recipe, photos: Photos, tmp_path: Path) -> None:
    Trainer(recipe, photos, CPU).save(tmp_path / "checkpoint.pt")
    with pytest.raises(ValueError, match="different recipe"):
        Trainer(replace(recipe, seed=1), photos, CPU).load(tmp_path / "checkpoint.pt")


def test_weights_are_averaged_as_by_torch() -> None:
    """From the second step on, a decay this low is that of every step."""
    network = nn.Linear(3, 2)
    average = deepcopy(network)
    decay = 0.05
    expected = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(decay))  # type: ignore[no-untyped-call]  # torch's
    for step in range(4):
        nn.init.normal_(network.weight)
        update_average(average, network, decay, step)
        expected.update_parameters(network)
    torch.testing.assert_close(average.state_dict(), expected.module.state_dict())


def separable(recipe: Recipe, photos: Photos) -> tuple[Recipe, Photos]:
    """A recipe and photos, bright or dark by class, with which a network learns the classes in 150 steps."""
    brightness = 60 * photos.labels.to(torch.uint8).view(-1, 1, 1, 1)
    phase = Phase((64,), (0.5, 1.0), color=0.0, grayscale=0.0, cutmix=0.0, mixup=0.0)
    recipe = replace(recipe, steps=150, decay_steps=50, stable=phase, decay=phase, peak_lr=1e-2, teacher_weight=1.0)
    return recipe, Photos(photos.images // 8 + brightness, photos.labels)


def test_training_learns_to_tell_classes_apart(recipe: Recipe, photos: Photos) -> None:
    recipe, classes = separable(recipe, photos)
    trainer = Trainer(recipe, classes, CPU)
    trainer.train(150)
    logits = predict_logits(trainer.network.eval(), classes, CPU)
    assert logits.shape == (24, 4)
    assert logits.argmax(1).tolist() == classes.labels.tolist()


def test_distillation_learns_what_the_teacher_says(recipe: Recipe, photos: Photos) -> None:
    recipe, classes = separable(recipe, photos)
    others = 3 - classes.labels
    teacher = Trainer(recipe, Photos(classes.images, others), CPU)
    teacher.train(150)
    student = Trainer(recipe, classes, CPU, teachers=[teacher.network])
    student.train(150)
    assert predict_logits(student.network.eval(), classes, CPU).argmax(1).tolist() == others.tolist()


def test_photos_are_prepared_as_for_serving(photos: Photos) -> None:
    [image] = predict_logits(torch.nn.Identity(), photos.subset(torch.tensor([3])), torch.device("cpu"))
    served = TRANSFORM(Image.fromarray(photos.images[3].permute(1, 2, 0).numpy()))
    torch.testing.assert_close(image, served)


def test_each_epoch_has_every_photo_once_in_another_order(recipe: Recipe) -> None:
    first, second = (torch.cat([batch_indices(recipe, 26, 3 * epoch + step) for step in range(3)]) for epoch in (0, 1))
    assert len(set(first.tolist())) == len(set(second.tolist())) == 24  # batches of 8
    assert not torch.equal(first, second)


def train_in_group(rank: int, recipe: Recipe, photos: Photos, folder: Path) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    trainer = Trainer(recipe, photos, CPU)
    trainer.train(2)
    torch.save(weights(trainer), folder / f"{rank}.pt")
    distributed.destroy_process_group()


def test_processes_keep_the_same_weights(recipe: Recipe, photos: Photos, tmp_path: Path) -> None:
    start_processes(train_in_group, (recipe, photos, tmp_path), nprocs=2, start_method="spawn")  # type: ignore[no-untyped-call]  # torch
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
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
