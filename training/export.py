"""Export of the averaged weights of a run as a calibrated float16 checkpoint for serving."""

from pathlib import Path

import torch

from model import load_model
from model.checkpoints.native import save_checkpoint
from model.evaluation import SoftmaxReport
from model.inference.engine import InferenceEngine
from training.calibration import fit_temperature
from training.data import Photos, class_labels
from training.evaluate import SERVED, score_validation
from training.plot import plot_run
from training.trainer import TRANSFORM, Trainer

LICENCE = "Apache-2.0 (weights); trained on images under ImageNet's research terms"


def export(trainer: Trainer, held_out: Photos, data_dir: Path, path: Path = SERVED) -> SoftmaxReport:
    """Writes the averaged weights of a run to ``path``, and a plot next to it; returns the report on the written file.

    The temperature of the held-out photos is folded into the classifier, so that the served probabilities are
    calibrated. The file's header records its top-1 accuracy.
    """
    temperature = fit_temperature(trainer.predict_logits(held_out), held_out.labels)
    state = trainer.average.state_dict()
    for name in ("head.fc.weight", "head.fc.bias"):
        state[name] = state[name] / temperature
    state = {name: weight.to("cpu", torch.float16) for name, weight in state.items()}
    recipe, labels = trainer.recipe, tuple(class_labels(data_dir))
    metadata = {"temperature": f"{temperature:.4f}", "steps": str(trainer.step), "seed": str(recipe.seed)}

    def save() -> None:
        save_checkpoint(
            path, state, recipe.network, TRANSFORM, labels, name=SERVED.stem, licence=LICENCE, metadata=metadata
        )

    path.parent.mkdir(parents=True, exist_ok=True)
    save()
    model = load_model(path)
    report = score_validation(InferenceEngine(model, device="cpu"), model, data_dir)
    metadata["top1"] = f"{100 * report.top1:.2f}"
    save()
    plot_run(trainer.journal, path.parent / "training.png")
    return report
