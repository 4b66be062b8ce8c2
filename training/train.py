"""Trains the embedded model: ``python -m training.train --data DIR``; run it again to continue where it stopped.

On a CPU, large allocations that go back to the system at once cost a tenth of the speed; glibc keeps them with
``GLIBC_TUNABLES=glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=20000000000``.
"""

import argparse
import multiprocessing
import os
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from training.data import Photos, load_train, split
from training.evaluate import PRETRAINED, SERVED
from training.export import TRANSFORM, export
from training.journal import Journal, Meter
from training.recipe import RECIPES, Recipe
from training.team import join
from training.trainer import CHECKPOINT, JOURNAL, Trainer, predict_logits

LOG_EVERY = 50  # steps
CHECKPOINT_EVERY = 250  # steps, and at the end of each epoch
MEASURE_EVERY = 4  # epochs, and at the end
MEETING_POINT = "team"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of train-*.npz, val.npz and classes.json")
    parser.add_argument("--recipe", choices=RECIPES, default="cpu")
    parser.add_argument("--epochs", type=int, nargs="+", help="epochs of each phase, instead of the recipe's")
    parser.add_argument("--seed", type=int, help="instead of the recipe's")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--workers", type=int, default=1, help="processes that share out each batch (CPU)")
    parser.add_argument("--run-dir", type=Path, default=Path("runs/train"), help="checkpoints, journal, decoded photos")
    parser.add_argument("--output", type=Path, default=PRETRAINED, help="where the served file and the plot go")
    parser.add_argument("--no-compile", action="store_true", help="run the network without torch.compile")
    return parser.parse_args()


def choose_recipe(name: str, epochs: list[int] | None, seed: int | None) -> Recipe:
    """The named recipe with the given epochs a phase and seed. Raises ``ValueError`` where the counts differ."""
    recipe = RECIPES[name]
    if epochs is not None:
        phases = zip(recipe.phases, epochs, strict=True)
        recipe = replace(recipe, phases=tuple(replace(phase, epochs=count) for phase, count in phases))
    return recipe if seed is None else replace(recipe, seed=seed)


def run(trainer: Trainer, held_out: Photos, run_dir: Path) -> None:
    """Trains to the end of the recipe; the team's first member keeps its journal and its checkpoints."""
    journal, meter = Journal(run_dir / JOURNAL), Meter()
    leads = trainer.team.rank == 0
    if leads:
        journal.cut_after(trainer.step)
    while trainer.step < trainer.steps:
        loss, accuracy = trainer.advance()
        meter.add(loss, accuracy, trainer.recipe.batch_size)
        if leads and trainer.step % LOG_EVERY == 0:
            journal.write({**progress(trainer), **meter.read()})
        at_end_of_epoch = trainer.step % trainer.steps_per_epoch == 0
        if leads and (at_end_of_epoch or trainer.step % CHECKPOINT_EVERY == 0):
            trainer.save(run_dir / CHECKPOINT)
        if leads and at_end_of_epoch and (trainer.epoch % MEASURE_EVERY == 0 or trainer.step == trainer.steps):
            journal.write({"step": trainer.step, **measure(trainer, held_out)})


def progress(trainer: Trainer) -> dict[str, float]:
    """Where the run is: step, epoch and learning rate; and the steps left."""
    epoch = trainer.step / trainer.steps_per_epoch
    return {"step": trainer.step, "epoch": epoch, "lr": trainer.lr, "steps_left": trainer.steps - trainer.step}


def measure(trainer: Trainer, held_out: Photos) -> dict[str, float]:
    """Loss and accuracies in percent of the averaged weights on the held-out photos, at the size that is served."""
    logits = predict_logits(trainer.average, held_out, TRANSFORM.crop_size, trainer.device)
    labels = torch.from_numpy(held_out.labels)
    hits = logits.topk(min(5, logits.shape[1])).indices == labels[:, None]
    return {
        "input_size": TRANSFORM.crop_size,
        "held_out_loss": float(nn.functional.cross_entropy(logits, labels)),
        "held_out_top1": 100 * float(hits[:, 0].float().mean()),
        "held_out_top5": 100 * float(hits.any(1).float().mean()),
    }


def work(rank: int, size: int, arguments: argparse.Namespace) -> None:
    """One member's whole run; the first one keeps the journal and the checkpoints."""
    if size > 1:
        torch.set_num_threads(1)
    team = join(rank, size, arguments.run_dir / MEETING_POINT)
    recipe = choose_recipe(arguments.recipe, arguments.epochs, arguments.seed)
    photos = load_train(arguments.data, arguments.run_dir / "cache")
    train_indices, held_out_indices = split(photos.labels, recipe.held_out, recipe.seed)
    train = photos.take(train_indices)
    device = torch.device(arguments.device)
    trainer = Trainer(recipe, train, device, compile_network=not arguments.no_compile, team=team)
    if (arguments.run_dir / CHECKPOINT).exists():
        trainer.load(arguments.run_dir / CHECKPOINT)
    if rank == 0:
        print(f"step {trainer.step} of {trainer.steps}: {recipe}", flush=True)
    run(trainer, photos.take(held_out_indices), arguments.run_dir)


def main() -> None:
    arguments = parse_arguments()
    arguments.run_dir.mkdir(parents=True, exist_ok=True)
    (arguments.run_dir / "train.pid").write_text(str(os.getpid()))
    (arguments.run_dir / MEETING_POINT).unlink(missing_ok=True)
    load_train(arguments.data, arguments.run_dir / "cache")  # decoded before the members part
    context = multiprocessing.get_context("spawn")
    size = arguments.workers
    others = [context.Process(target=work, args=(rank, size, arguments), daemon=True) for rank in range(1, size)]
    for other in others:
        other.start()
    work(0, size, arguments)
    for other in others:
        other.join()
    recipe = choose_recipe(arguments.recipe, arguments.epochs, arguments.seed)
    print(export(arguments.run_dir, arguments.data, recipe, arguments.output / SERVED.name))


if __name__ == "__main__":
    main()
