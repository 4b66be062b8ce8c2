"""Trains the embedded model: ``python -m training.train --data DIR``. Run the same command again to resume.

Several processes share the work with ``torchrun --nproc-per-node 2 -m training.train --data DIR``.
"""

import argparse
import json
import os
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, distributed, nn

from training.data import Photos, load_train, split
from training.evaluate import PRETRAINED, SERVED
from training.export import TRANSFORM, export
from training.recipe import RECIPES, Recipe
from training.trainer import CHECKPOINT, Trainer

JOURNAL = "journal.jsonl"
EVALUATE_EVERY = 5  # epochs


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with train-*.npz, val.npz and classes.json")
    parser.add_argument("--recipe", choices=RECIPES, default="cpu")
    parser.add_argument("--epochs", type=int, help="number of epochs (default: that of the recipe)")
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--workers", type=int, help="processes that load photos (default: one per core, 0 on a CPU)")
    parser.add_argument("--compile", action="store_true", help="compile the network with torch.compile")
    parser.add_argument("--run-dir", type=Path, default=Path("runs/train"), help="folder for checkpoint and journal")
    parser.add_argument("--output", type=Path, default=PRETRAINED, help="folder for the served checkpoint and the plot")
    return parser.parse_args()


def join_process_group(device: str) -> torch.device:
    """Joins the processes started by torchrun, if any, and returns the device of this process."""
    if not distributed.is_torchelastic_launched():
        return torch.device(device)
    distributed.init_process_group("nccl" if device == "cuda" else "gloo")
    if device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    return torch.device(device)


def default_workers(device: torch.device) -> int:
    """Returns the number of loader processes; on a CPU they would take the cores from the training itself."""
    return 0 if device.type == "cpu" else torch.get_num_threads()


def train(trainer: Trainer, held_out: Photos, run_dir: Path) -> None:
    """Trains to the end of the recipe; the process of rank 0 writes the checkpoint and the journal to ``run_dir``."""
    while trainer.epoch < trainer.recipe.epochs:
        record = trainer.train_epoch()
        if trainer.rank == 0:
            if trainer.epoch % EVALUATE_EVERY == 0 or trainer.epoch == trainer.recipe.epochs:
                record |= evaluate(trainer.predict_logits(held_out), torch.from_numpy(held_out.labels))
            trainer.journal.append(record)
            trainer.save(run_dir / CHECKPOINT)
            lines = [json.dumps(entry) for entry in trainer.journal]
            (run_dir / JOURNAL).write_text("\n".join(lines) + "\n")
            print(lines[-1], flush=True)


def evaluate(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Returns the loss and the accuracies in percent of ``logits (N, K)`` for ``labels (N,)``."""
    hits = logits.topk(min(5, logits.shape[1])).indices == labels[:, None]
    return {
        "held_out_loss": float(nn.functional.cross_entropy(logits, labels)),
        "held_out_top1": 100 * float(hits[:, 0].float().mean()),
        "held_out_top5": 100 * float(hits.any(1).float().mean()),
    }


def main() -> None:
    arguments = parse_arguments()
    device = join_process_group(arguments.device)
    recipe = RECIPES[arguments.recipe]
    recipe = replace(recipe, epochs=arguments.epochs or recipe.epochs, seed=arguments.seed)
    photos, held_out = split(load_train(arguments.data, TRANSFORM), recipe.held_out_per_class, recipe.seed)
    workers = arguments.workers if arguments.workers is not None else default_workers(device)
    trainer = Trainer(recipe, photos, device, workers=workers, compiled=arguments.compile)
    arguments.run_dir.mkdir(parents=True, exist_ok=True)
    if (arguments.run_dir / CHECKPOINT).exists():
        trainer.load(arguments.run_dir / CHECKPOINT)
    if trainer.rank == 0:
        print(f"epoch {trainer.epoch} of {recipe.epochs} on {device}: {recipe}", flush=True)
    train(trainer, held_out, arguments.run_dir)
    if trainer.rank == 0:
        print(export(trainer, held_out, arguments.data, arguments.output / SERVED.name))
    if distributed.is_initialized():
        distributed.destroy_process_group()


if __name__ == "__main__":
    main()
