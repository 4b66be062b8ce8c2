"""Trainer: the state of a training run, advanced by one epoch at a time."""

import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, DistributedSampler
from torchvision.transforms import v2

from model.convnext import Block, ConvNeXt
from training.data import Photos, augmentation, normalize
from training.depthwise import use_fast_depthwise
from training.precision import computes_bfloat16
from training.recipe import Recipe

CHECKPOINT = "checkpoint.pt"
Tensors = tuple[Tensor, ...] | list[Tensor]


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
        torch.optim.AdamW(groups, lr=recipe.peak_lr, betas=recipe.betas, fused=True),
        torch.optim.Muon(matrices, lr=recipe.peak_lr, weight_decay=recipe.weight_decay, adjust_lr_fn="match_rms_adamw"),
    ]


def average_weights(network: nn.Module, decay: float) -> AveragedModel:
    """Returns the exponential moving average of the network, with a lower decay in the first steps."""

    def update(averages: Tensors, weights: Tensors, count: Tensor | int) -> None:
        current = min(decay, (1 + int(count)) / (10 + int(count)))
        get_ema_multi_avg_fn(current)(averages, weights, count)  # type: ignore[no-untyped-call]  # torch's

    return AveragedModel(network, multi_avg_fn=update).eval()


class Trainer:
    """A network in training. In a process group, each process computes its share of every batch.

    All randomness follows from the seed, the epoch and the rank, so that a run resumed from a checkpoint equals an
    uninterrupted one with the same number of processes and loader processes.
    """

    def __init__(
        self, recipe: Recipe, photos: Photos, device: torch.device, *, workers: int = 0, compiled: bool = False
    ) -> None:
        self.recipe = recipe
        self.device = device
        self.epoch = 0
        self.journal: list[dict[str, float]] = []
        self.network = build_network(recipe).to(device).to(memory_format=torch.channels_last)
        self._bfloat16 = computes_bfloat16(device)
        if device.type == "cpu" and self._bfloat16:
            use_fast_depthwise(self.network)
        self.average = average_weights(self.network, recipe.ema_decay)
        self.optimizers = build_optimizers(self.network, recipe)
        self._photos = photos
        self._workers = workers
        self._cutmix = v2.RandomApply([v2.CutMix(num_classes=recipe.network.num_classes)], p=recipe.cutmix)
        if compiled:
            self.network.compile(dynamic=False)
        self._forward: nn.Module = self.network
        self.rank, self._processes = 0, 1
        if distributed.is_initialized():
            self.rank, self._processes = distributed.get_rank(), distributed.get_world_size()
            self._forward = DistributedDataParallel(self.network)
        if recipe.batch_size % self._processes:
            raise ValueError(f"batch size {recipe.batch_size} is not divisible by {self._processes} processes")

    def train_epoch(self) -> dict[str, float]:
        """Trains for one epoch and returns its epoch, step, learning rate, mean loss and photos per second."""
        torch.manual_seed(int(np.random.SeedSequence([self.recipe.seed, self.epoch, self.rank]).generate_state(1)[0]))
        loader = self._loader()
        self.network.train()
        loss, lr, start = torch.zeros((), device=self.device), 0.0, time.perf_counter()
        for step, (images, labels) in enumerate(loader, self.epoch * len(loader)):
            lr = self.recipe.learning_rate(step, self.recipe.epochs * len(loader))
            images, targets = self._cutmix(images.to(self.device), labels.to(self.device))
            loss += self._step(normalize(images).contiguous(memory_format=torch.channels_last), targets, lr)
        self.epoch += 1
        mean_loss, seconds = float(loss) / len(loader), time.perf_counter() - start
        photos_per_s = len(loader) * self.recipe.batch_size / seconds
        progress = {"epoch": self.epoch, "step": self.epoch * len(loader), "lr": lr}
        return progress | {"loss": mean_loss, "photos_per_s": photos_per_s}

    def _loader(self) -> DataLoader[tuple[Tensor, int]]:
        photos = replace(self._photos, transform=augmentation(self.recipe, self.recipe.phase_at(self.epoch)))
        sampler: DistributedSampler[int] = DistributedSampler(
            photos, num_replicas=self._processes, rank=self.rank, seed=self.recipe.seed, drop_last=True
        )
        sampler.set_epoch(self.epoch)
        return DataLoader(
            photos,
            batch_size=self.recipe.batch_size // self._processes,
            sampler=sampler,
            num_workers=self._workers,
            pin_memory=self.device.type == "cuda",
            drop_last=True,
        )

    def _step(self, images: Tensor, targets: Tensor, lr: float) -> Tensor:
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = lr
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._bfloat16):
            logits = self._forward(images)
        loss = nn.functional.cross_entropy(logits.float(), targets, label_smoothing=self.recipe.label_smoothing)
        loss.backward()  # type: ignore[no-untyped-call]  # torch has no annotation here
        nn.utils.clip_grad_norm_(self.network.parameters(), self.recipe.max_grad_norm)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        self.average.update_parameters(self.network)
        return loss.detach()

    def predict_logits(self, photos: Photos) -> Tensor:
        """Returns the logits ``(N, K)`` float32 of the averaged weights on the CPU."""
        return predict_logits(self.average, photos, self.device, workers=self._workers)

    def save(self, path: Path) -> None:
        """Writes the state of the run to ``path`` atomically."""
        state = {
            "recipe": asdict(self.recipe),
            "epoch": self.epoch,
            "journal": self.journal,
            "parts": [part.state_dict() for part in self._parts()],
        }
        partial = path.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(path)

    def load(self, path: Path) -> None:
        """Restores the state that ``save`` wrote. Raises ``ValueError`` if it belongs to a different recipe."""
        state: dict[str, Any] = torch.load(path, map_location=self.device, weights_only=True)  # Any: mixed values
        if state["recipe"] != asdict(self.recipe):
            raise ValueError(f"{path} was written with a different recipe: {state['recipe']}")
        self.epoch, self.journal = state["epoch"], state["journal"]
        for part, saved in zip(self._parts(), state["parts"], strict=True):
            part.load_state_dict(saved)

    def _parts(self) -> list[nn.Module | torch.optim.Optimizer]:
        return [self.network, self.average, *self.optimizers]


@torch.inference_mode()
def predict_logits(network: nn.Module, photos: Photos, device: torch.device, *, workers: int = 0) -> Tensor:
    """Returns the logits ``(N, K)`` float32 of ``network`` on the CPU; ``photos`` carry the transform to use."""
    logits = []
    for images, _ in DataLoader(photos, batch_size=200, num_workers=workers):
        images = images.to(device, memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16, enabled=computes_bfloat16(device)):
            logits.append(network(images).float().cpu())
    return torch.cat(logits)
