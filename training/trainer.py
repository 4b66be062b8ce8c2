"""Trainer: the state of a training run, advanced by any number of steps."""

import time
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import get_ema_multi_avg_fn
from torchvision.transforms import v2

from model.convnext import Block, ConvNeXt
from model.images.transform import Transform
from model.inference.bfloat16 import computes_bfloat16
from training.augment import augment, normalize
from training.captured import CapturedUpdate
from training.channel_major import ChannelMajor
from training.data import Photos
from training.recipe import Recipe

CHECKPOINT = "checkpoint.pt"
# A sharp photo is first reduced to the level of detail of the training photos.
TRANSFORM = Transform(resize_size=224, crop_size=224, interpolation="bilinear", detail_size=64)
BRANCHED = {"steps", "decay_steps", "decay"}  # what a run that branches off with a decay may change
STEPS_PER_CAPTURE = 50


def build_network(recipe: Recipe) -> ConvNeXt:
    """Returns a new network whose layers preserve the variance of their input.

    The initialization of the paper (standard deviation 0.02, layer scale 1e-6) needs a much longer schedule.
    """
    torch.manual_seed(recipe.seed)
    network = ConvNeXt(recipe.network)
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Conv2d) and module is not network.head.fc:
            nn.init.trunc_normal_(module.weight, std=module.weight[0].numel() ** -0.5)
        if isinstance(module, Block) and module.gamma is not None:
            nn.init.constant_(module.gamma, recipe.layer_scale)
    return network


def build_optimizers(network: nn.Module, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Returns Muon for the matrices of the blocks and AdamW for all other parameters.

    Weight decay applies to parameters of more than one dimension only.
    """
    blocks = [module.mlp for module in network.modules() if isinstance(module, Block)]
    matrices = [weight for mlp in blocks for weight in mlp.parameters() if weight.ndim == 2]
    excluded = set(map(id, matrices))
    others = [weight for weight in network.parameters() if id(weight) not in excluded]
    groups = [
        {"params": [weight for weight in others if weight.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [weight for weight in others if weight.ndim <= 1], "weight_decay": 0.0},
    ]
    return [
        torch.optim.AdamW(groups, lr=recipe.peak_lr, betas=recipe.betas, fused=True, capturable=others[0].is_cuda),
        torch.optim.Muon(matrices, lr=recipe.peak_lr, weight_decay=recipe.weight_decay, adjust_lr_fn="match_rms_adamw"),
    ]


def update_average(average: nn.Module, network: nn.Module, decay: float, step: int) -> None:
    """Updates the moving average of the weights after ``step``, counted from 0; the decay is lower in the first steps.

    torch's AveragedModel would wait for the GPU in each step.
    """
    update = get_ema_multi_avg_fn(min(decay, step / (9 + step)))  # type: ignore[no-untyped-call]  # torch's
    update(list(average.parameters()), list(network.parameters()), step)


class Trainer:
    """A network in training. In a process group, each process computes its share of every batch.

    All randomness follows from the seed, the step and the rank, so that a run resumed from a checkpoint equals an
    uninterrupted one with the same number of processes.
    """

    def __init__(
        self,
        recipe: Recipe,
        photos: Photos,
        device: torch.device,
        *,
        teachers: Sequence[ConvNeXt] = (),
    ) -> None:
        self.recipe = recipe
        self.device = device
        self.step = 0
        self.journal: list[dict[str, float]] = []
        self.network = build_network(recipe).to(device)
        self.average = deepcopy(self.network).eval()
        self.optimizers = build_optimizers(self.network, recipe)
        self._photos = photos.to(device)
        self._bfloat16 = computes_bfloat16(device)
        self._forward = self._fastest(self.network)
        self._teachers = [self._fastest(teacher.to(device).eval()) for teacher in teachers]
        self.rank, self._processes = 0, 1
        if distributed.is_initialized():
            self.rank, self._processes = distributed.get_rank(), distributed.get_world_size()
            self._forward = DistributedDataParallel(self._forward)
        self._captured = device.type == "cuda" and self._processes == 1
        self._update = CapturedUpdate(self._change_weights) if self._captured else self._change_weights
        if recipe.batch_size % self._processes:
            raise ValueError(f"batch size {recipe.batch_size} is not divisible by {self._processes} processes")

    def _fastest(self, network: ConvNeXt) -> nn.Module:
        return ChannelMajor(network) if self._bfloat16 else network

    def train(self, steps: int) -> dict[str, float]:
        """Trains for ``steps`` and returns the epoch, step, learning rate, mean loss and photos per second."""
        self.network.train()
        loss, start = torch.zeros((), device=self.device), time.perf_counter()
        for _ in range(steps):
            torch.manual_seed(self._seed(self.step, self.rank))
            indices = batch_indices(self.recipe, len(self._photos), self.step)[self.rank :: self._processes]
            batch = self._photos.subset(indices.to(self.device, non_blocking=True))
            phase = self.recipe.phase_at(self.step)
            images, targets = augment(batch.images, batch.labels, phase, self.recipe.network.num_classes)
            loss += self._update(images, targets, self._learning_rate())
            update_average(self.average, self.network, self.recipe.ema_decay, self.step)
            self.step += 1
        mean_loss, photos = float(loss) / steps, self.recipe.batch_size
        photos_per_s = steps * photos / (time.perf_counter() - start)
        progress = {"epoch": self.step * photos / len(self._photos), "step": self.step}
        progress["lr"] = self.recipe.learning_rate(self.step - 1)
        return progress | {"loss": mean_loss, "photos_per_s": photos_per_s}

    def _seed(self, *values: int) -> int:
        return int(np.random.SeedSequence([self.recipe.seed, *values]).generate_state(1)[0])

    def _learning_rate(self) -> float:
        """That of the current step, or for captured updates of one a little earlier: each rate needs a capture."""
        return self.recipe.learning_rate(self.step - self.step % STEPS_PER_CAPTURE if self._captured else self.step)

    def _change_weights(self, images: Tensor, targets: Tensor, lr: float) -> Tensor:
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = lr
        images = images if self._bfloat16 else images.float()
        smoothing = self.recipe.label_smoothing
        if self._teachers:
            targets, smoothing = self._distilled(images, targets), 0.0
        loss = nn.functional.cross_entropy(self._forward(images), targets, label_smoothing=smoothing)
        loss.backward()  # type: ignore[no-untyped-call]  # torch has no annotation here
        nn.utils.clip_grad_norm_(self.network.parameters(), self.recipe.max_grad_norm)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        return loss.detach()

    def _distilled(self, images: Tensor, targets: Tensor) -> Tensor:
        """Returns ``targets (N, K)`` mixed with the mean probabilities of the teachers for the same augmented images.

        Source: Beyer et al., Knowledge distillation: A good teacher is patient and consistent, 2022.
        """
        with torch.no_grad():
            outputs = [teacher(images).softmax(1) for teacher in self._teachers]
        return torch.lerp(targets, torch.stack(outputs).mean(0), self.recipe.teacher_weight)

    def predict_logits(self, photos: Photos) -> Tensor:
        """Returns the logits ``(N, K)`` float32 of the averaged weights on the CPU."""
        return predict_logits(self.average, photos, self.device)

    def save(self, path: Path) -> None:
        """Writes the state of the run to ``path`` atomically."""
        state = {
            "recipe": asdict(self.recipe),
            "step": self.step,
            "journal": self.journal,
            "parts": [part.state_dict() for part in self._parts()],
        }
        partial = path.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(path)

    def load(self, path: Path) -> None:
        """Restores the state that ``save`` wrote; the lengths of the run and of its decay may differ.

        Raises ``ValueError`` if the state belongs to another recipe.
        """
        state: dict[str, Any] = torch.load(path, map_location=self.device, weights_only=True)  # Any: mixed values
        ours = asdict(self.recipe)
        if any(state["recipe"][name] != ours[name] for name in ours.keys() - BRANCHED):
            raise ValueError(f"{path} was written with a different recipe: {state['recipe']}")
        self.step, self.journal = state["step"], state["journal"]
        for part, saved in zip(self._parts(), state["parts"], strict=True):
            part.load_state_dict(saved)

    def _parts(self) -> list[nn.Module | torch.optim.Optimizer]:
        return [self.network, self.average, *self.optimizers]


def batch_indices(recipe: Recipe, photos: int, step: int) -> Tensor:
    """Returns the indices of the photos of ``step``; each epoch has all photos but a rest, in another order."""
    epoch, batch = divmod(step, photos // recipe.batch_size)
    return _order(recipe.seed, epoch, photos)[batch * recipe.batch_size : (batch + 1) * recipe.batch_size]


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, photos: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng([seed, epoch]).permutation(photos))


@torch.inference_mode()
def predict_logits(network: nn.Module, photos: Photos, device: torch.device) -> Tensor:
    """Returns the logits ``(N, K)`` float32 of ``network`` on the CPU for photos prepared as for serving."""
    size = [TRANSFORM.resize_size, TRANSFORM.resize_size]
    logits = []
    for batch in torch.split(photos.images, 200):
        images = normalize(v2.functional.resize(batch.to(device), size) / 255)
        with torch.autocast(device.type, torch.bfloat16, enabled=computes_bfloat16(device)):
            logits.append(network(images.to(memory_format=torch.channels_last)).float().cpu())
    return torch.cat(logits)
