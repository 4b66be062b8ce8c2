from dataclasses import replace

import pytest
import torch

from training.data import Photos
from training.recipe import ATTO, Phase, Recipe
from training.trainer import Trainer, predict_logits

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")

PHASE = Phase((64,), (0.5, 1.0), color=0.0, grayscale=0.0, cutmix=0.5, mixup=0.0)
RECIPE = Recipe(
    network=replace(ATTO, depths=(1, 2), widths=(8, 16), num_classes=4),
    steps=200,
    decay_steps=50,
    stable=PHASE,
    decay=replace(PHASE, input_sizes=(96,)),
    batch_size=16,
    peak_lr=1e-2,
    warmup_steps=2,
    teacher_weight=1.0,
)


def photos_by_brightness() -> Photos:
    labels = torch.arange(48) % 4
    noise = torch.randint(0, 32, (48, 3, 64, 64), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return Photos(noise + 60 * labels.to(torch.uint8).view(-1, 1, 1, 1), labels)


def test_training_by_graphs_learns_the_classes_and_passes_them_on() -> None:
    device, photos = torch.device("cuda"), photos_by_brightness()
    teacher = Trainer(RECIPE, photos, device)
    teacher.train(RECIPE.steps)
    student = Trainer(RECIPE, Photos(photos.images, 3 - photos.labels), device, teachers=[teacher.network])
    student.train(RECIPE.steps)
    for trainer in (teacher, student):
        assert predict_logits(trainer.network.eval(), photos, device).argmax(1).tolist() == photos.labels.tolist()
