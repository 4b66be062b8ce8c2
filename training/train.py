"""Trains the embedded model: ``python -m training.train --data DIR``. Run the same command again to resume.

Several processes share the work with ``torchrun --nproc-per-node 2 -m training.train --data DIR``. To end a run early,
copy its checkpoint into another ``--run-dir`` and pass ``--steps`` and ``--decay-steps``.
"""

import argparse
import json
import os
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, distributed, nn

from model import load_model
from training.data import Photos, load_train, split
from training.evaluate import PRETRAINED, SERVED, summary
from training.export import export
from training.recipe import RECIPES, Recipe
from training.trainer import CHECKPOINT, Trainer

JOURNAL = "journal.jsonl"
RECORD_EVERY = 75  # steps
EVALUATE_EVERY = 3000
HELD_OUT_SEED = 0  # for runs of any seed, so that none has learned what another holds out


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with train-*.npz, val.npz and classes.json")
    parser.add_argument("--recipe", choices=RECIPES, default="cpu")
    parser.add_argument("--steps", type=int, help="length of the run (default: that of the recipe)")
    parser.add_argument("--decay-steps", type=int, help="length of its decay (default: that of the recipe)")
    parser.add_argument("--weights", help="model whose weights a new run starts from (default: random weights)")
    parser.add_argument("--teachers", nargs="+", default=[], help="models whose probabilities the run learns, too")
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
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


def train(trainer: Trainer, held_out: Photos, run_dir: Path) -> None:
    """Trains to the end of the recipe; the process of rank 0 writes the checkpoint and the journal to ``run_dir``."""
    recipe = trainer.recipe
    while trainer.step < recipe.steps:
        until_record = RECORD_EVERY - trainer.step % RECORD_EVERY
        record = trainer.train(min(until_record, recipe.steps - trainer.step))
        if trainer.rank == 0:
            if trainer.step % EVALUATE_EVERY == 0 or trainer.step == recipe.steps:
                record |= evaluate(trainer.predict_logits(held_out), held_out.labels)
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
    steps, decay_steps = arguments.steps or recipe.steps, arguments.decay_steps or recipe.decay_steps
    recipe = replace(recipe, steps=steps, decay_steps=decay_steps, seed=arguments.seed)
    photos, held_out = split(load_train(arguments.data), recipe.held_out_per_class, HELD_OUT_SEED)
    teachers = [load_model(name).network for name in arguments.teachers]
    trainer = Trainer(recipe, photos, device, teachers=teachers)
    if arguments.weights:
        trainer.network.load_state_dict(load_model(arguments.weights).network.state_dict())
    arguments.run_dir.mkdir(parents=True, exist_ok=True)
    if (arguments.run_dir / CHECKPOINT).exists():
        trainer.load(arguments.run_dir / CHECKPOINT)
    if trainer.rank == 0:
        print(f"step {trainer.step} of {recipe.steps} on {device}: {recipe}", flush=True)
    train(trainer, held_out, arguments.run_dir)
    if trainer.rank == 0:
        print(summary(export(trainer, held_out, arguments.data, arguments.output / SERVED.name)))
    if distributed.is_initialized():
        distributed.destroy_process_group()


if __name__ == "__main__":
    main()
