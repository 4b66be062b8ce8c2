"""Trainer: the state of a run and the one step that advances it."""

import copy
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from model.convnext import Block, ConvNeXt
from training import augment
from training.data import Photos
from training.depthwise import speed_up_depthwise
from training.recipe import Phase, Recipe
from training.team import Team

CHECKPOINT = "checkpoint.pt"
JOURNAL = "journal.jsonl"


def build_network(recipe: Recipe) -> ConvNeXt:
    """A fresh network whose layers keep their input's variance and whose residual branches count from the first step.

    The paper's start (deviation 0.02, layer scale 1e-6) makes every branch vanish, which asks for a long schedule.
    """
    torch.manual_seed(recipe.seed)
    network = ConvNeXt(recipe.config)
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Conv2d) and module is not network.head.fc:
            nn.init.trunc_normal_(module.weight, std=module.weight[0].numel() ** -0.5)
        if isinstance(module, Block) and module.gamma is not None:
            nn.init.constant_(module.gamma, recipe.layer_scale)
    return network


def build_optimizers(network: nn.Module, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Muon (K. Jordan, 2024) for the blocks' matrices, its steps as large as AdamW's; AdamW for everything else.

    Decay spares biases, norms and scales: everything with one dimension.
    """
    blocks = [module.mlp for module in network.modules() if isinstance(module, Block)]
    matrices = [p for mlp in blocks for p in mlp.parameters() if p.ndim == 2] if recipe.muon else []
    taken = set(map(id, matrices))
    others = [p for p in network.parameters() if id(p) not in taken]
    groups = [
        {"params": [p for p in others if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in others if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(groups, lr=recipe.peak_lr, betas=recipe.betas, fused=True)
    ]
    if matrices:
        optimizers.append(
            torch.optim.Muon(
                matrices, lr=recipe.peak_lr, weight_decay=recipe.weight_decay, adjust_lr_fn="match_rms_adamw"
            )
        )
    return optimizers


class Trainer:
    """Network, moving average, optimizer and step. All randomness follows from the seed, the epoch and the step,
    so a run that is resumed is the run that was never interrupted. ``team`` shares out each batch."""

    def __init__(
        self,
        recipe: Recipe,
        photos: Photos,
        device: torch.device,
        *,
        compile_network: bool = False,
        team: Team | None = None,
    ) -> None:
        self.recipe = recipe
        self.device = device
        self.team = team or Team()
        self.step = 0
        self.lr = 0.0  # of the last step
        self._photos = photos
        self._order: tuple[int, Tensor] | None = None  # epoch, permutation
        self.network = build_network(recipe).to(device)
        if device.type == "cpu":
            speed_up_depthwise(self.network)
        self.network.to(memory_format=torch.channels_last)
        self.average = copy.deepcopy(self.network).eval().requires_grad_(requires_grad=False)
        self.optimizers = build_optimizers(self.network, recipe)
        self._forward: Any = self.network  # Any: torch.compile's return type says less than nn.Module's
        if compile_network:
            self._forward = torch.compile(self.network, dynamic=False)

    @property
    def steps_per_epoch(self) -> int:
        return len(self._photos) // self.recipe.batch_size

    @property
    def steps(self) -> int:
        return self.recipe.epochs * self.steps_per_epoch

    @property
    def epoch(self) -> int:
        return self.step // self.steps_per_epoch

    def advance(self) -> tuple[float, float]:
        """Runs one step; gives the loss and the share of photos whose likeliest class has most of the target."""
        seed = (((self.recipe.seed << 8) + self.team.rank) << 32) + self.step
        rng = torch.Generator(self.device).manual_seed(seed)
        torch.manual_seed(seed)  # for drop-path, which draws from the global one
        images, targets = self._batch(rng, self.recipe.phase_at(self.epoch))
        self.lr = self.recipe.learning_rate(self.step, self.steps)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.lr
        self.network.train()
        with torch.autocast(self.device.type, torch.bfloat16):
            logits = self._forward(images)
        loss = nn.functional.cross_entropy(logits.float(), targets, label_smoothing=self.recipe.label_smoothing)
        loss.backward()  # type: ignore[no-untyped-call]  # torch's
        self.team.average_gradients(self.network)
        nn.utils.clip_grad_norm_(self.network.parameters(), self.recipe.max_grad_norm)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        self.step += 1
        self._update_average()
        return float(loss.detach()), float((logits.argmax(1) == targets.argmax(1)).float().mean())

    def _batch(self, rng: torch.Generator, phase: Phase) -> tuple[Tensor, Tensor]:
        recipe = self.recipe
        first = self.step % self.steps_per_epoch * recipe.batch_size
        share = slice(first + self.team.rank, first + recipe.batch_size, self.team.size)
        indices = self._permutation(self.epoch)[share].numpy()
        images = torch.from_numpy(self._photos.images[indices]).to(self.device)
        labels = torch.from_numpy(self._photos.labels[indices]).to(self.device)
        targets = nn.functional.one_hot(labels, recipe.num_classes).float()
        images = augment.jitter_colours(augment.to_unit(images), recipe.colour, recipe.grey, rng)
        # Normalised while small, which commutes with resizing; in bfloat16, which is as fine as the pixels' 8 bits.
        images = augment.normalise(images).to(torch.bfloat16)
        boxes = augment.random_boxes(len(images), phase.crop_scale, rng)
        images = augment.resize_boxes(images, boxes, phase.input_size)
        images, targets = augment.cutmix(images, targets, phase.cutmix, rng)
        return images.contiguous(memory_format=torch.channels_last), targets

    def _permutation(self, epoch: int) -> Tensor:
        if self._order is None or self._order[0] != epoch:
            rng = torch.Generator().manual_seed((self.recipe.seed << 32) + (1 << 31) + epoch)
            self._order = epoch, torch.randperm(len(self._photos), generator=rng)
        return self._order[1]

    @torch.no_grad()
    def _update_average(self) -> None:
        decay = min(self.recipe.ema_decay, (1 + self.step) / (10 + self.step))
        for average, current in zip(self.average.parameters(), self.network.parameters(), strict=True):
            average.lerp_(current, 1 - decay)

    def save(self, path: Path) -> None:
        """Writes everything that ``load`` needs, atomically."""
        state = {
            "recipe": asdict(self.recipe),
            "step": self.step,
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }
        partial = path.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(path)

    def load(self, path: Path) -> None:
        """Continues from a file of ``save``."""
        state = torch.load(path, map_location=self.device, weights_only=True)
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.step = state["step"]


@torch.inference_mode()
def predict_logits(network: nn.Module, photos: Photos, input_size: int, device: torch.device) -> Tensor:
    """Logits ``(N, K) float32`` of whole photos enlarged to ``input_size`` pixels."""
    logits = []
    for first in range(0, len(photos), 200):
        images = torch.from_numpy(np.array(photos.images[first : first + 200])).to(device)
        images = augment.normalise(augment.enlarge(augment.to_unit(images), input_size))
        with torch.autocast(device.type, torch.bfloat16):
            logits.append(network(images.contiguous(memory_format=torch.channels_last)).float().cpu())
    return torch.cat(logits)
