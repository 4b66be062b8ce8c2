"""Recipe: the hyperparameters of a training run and its schedule."""

from dataclasses import dataclass, replace

from model.convnext import ConvNeXtConfig, config_for

# Tiny ImageNet photos have 64 pixels and are served enlarged to 224, so a patch of 8 pixels covers 2.3 original ones.
ATTO = replace(config_for("atto", version=1, num_classes=200), patch_size=8, drop_path_rate=0.1)


@dataclass(frozen=True)
class Phase:
    """A part of the run with one input size (pixels) and one range of crop areas (fractions of the photo).

    ``end`` is the fraction of all epochs at which the phase ends.
    """

    end: float
    input_size: int
    crop_scale: tuple[float, float]


@dataclass(frozen=True)
class Recipe:
    """The hyperparameters of a run. ``cutmix`` is the probability that a batch is mixed.

    The learning rate rises linearly over ``warmup_steps``, stays at ``peak_lr`` and falls linearly to zero over the
    last ``decay`` fraction of all steps.
    """

    network: ConvNeXtConfig = ATTO
    epochs: int = 40
    phases: tuple[Phase, ...] = (
        Phase(0.15, 96, (0.35, 1.0)),
        Phase(0.925, 128, (0.2, 1.0)),
        Phase(1.0, 160, (0.25, 0.8)),  # half a photo at 160 pixels shows objects as large as a whole photo at 224
    )
    seed: int = 0
    held_out_per_class: int = 20
    batch_size: int = 256
    peak_lr: float = 2e-3
    warmup_steps: int = 150
    decay: float = 0.2
    weight_decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.99)
    max_grad_norm: float = 1.0
    ema_decay: float = 0.995
    label_smoothing: float = 0.1
    layer_scale: float = 1.0
    cutmix: float = 0.7
    trivial_augment: bool = False  # instead of color jitter and grayscale
    color_jitter: float = 0.4
    grayscale: float = 0.1

    def phase_at(self, epoch: int) -> Phase:
        """Returns the phase of ``epoch``, counted from 0. Raises ``IndexError`` after the last epoch."""
        for phase in self.phases:
            if epoch < phase.end * self.epochs:
                return phase
        raise IndexError(f"epoch {epoch} of a recipe with {self.epochs} epochs")

    def learning_rate(self, step: int, steps: int) -> float:
        """Returns the learning rate of ``step``, counted from 0, in a run of ``steps``."""
        warmup = (step + 1) / self.warmup_steps if self.warmup_steps else 1.0
        decay = (steps - step) / max(1.0, self.decay * steps)
        return self.peak_lr * min(1.0, warmup, decay)


RECIPES: dict[str, Recipe] = {
    "cpu": Recipe(),
    "gpu": Recipe(
        epochs=200,
        phases=(Phase(0.75, 128, (0.25, 1.0)), Phase(0.925, 176, (0.25, 1.0)), Phase(1.0, 224, (0.5, 1.0))),
        batch_size=512,
        peak_lr=3e-3,
        warmup_steps=1000,
        decay=0.45,
        ema_decay=0.9998,
        cutmix=0.5,
        trivial_augment=True,
    ),
}
