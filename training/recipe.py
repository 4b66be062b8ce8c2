"""Recipe: the hyperparameters of a training run and its schedule."""

from dataclasses import dataclass, replace

from model.convnext import ConvNeXtConfig, config_for

# Tiny ImageNet photos have 64 pixels and are served enlarged to 224, so a patch of 8 pixels covers 2.3 original ones.
ATTO = replace(config_for("atto", version=1, num_classes=200), patch_size=8, drop_path_rate=0.1)
WIDE = replace(ATTO, widths=(96, 192, 384, 768), drop_path_rate=0.2)


@dataclass(frozen=True)
class Phase:
    """A part of a run: input sizes in pixels, of which each batch has one, and the range of the area of a crop.

    ``crop_area`` is relative to the photo. ``color`` is the strength of the color jitter, from 0 to 1. ``cutmix`` and
    ``mixup`` are the probabilities that a batch is mixed.
    """

    input_sizes: tuple[int, ...]
    crop_area: tuple[float, float]
    color: float = 0.4
    grayscale: float = 0.1
    cutmix: float = 0.5
    mixup: float = 0.2


@dataclass(frozen=True)
class Recipe:
    """The hyperparameters of a run: warm-up, stable and decay (Hu et al., MiniCPM, 2024, section 4).

    The learning rate rises linearly over ``warmup_steps``, stays at ``peak_lr`` and falls linearly to zero over the
    last ``decay_steps``. Until the decay, nothing depends on ``steps``: a decay can start at any checkpoint.
    ``teacher_weight`` is the share of the teachers' probabilities in the targets of a run that has teachers; such a run
    has no label smoothing.
    """

    network: ConvNeXtConfig = ATTO
    steps: int = 60_000
    decay_steps: int = 6_000
    stable: Phase = Phase((80, 96), (0.15, 1.0))
    decay: Phase = Phase((112, 128), (0.15, 0.8))
    seed: int = 0
    held_out_per_class: int = 20
    batch_size: int = 256
    peak_lr: float = 2e-3
    warmup_steps: int = 150
    weight_decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.99)
    max_grad_norm: float = 1.0
    label_smoothing: float = 0.1
    teacher_weight: float = 0.7
    layer_scale: float = 1.0

    @property
    def ema_decay(self) -> float:
        """Decay of the averaged weights, a horizon of a twentieth of the decay phase."""
        return 1 - 1 / max(2.0, self.decay_steps / 20)

    def phase_at(self, step: int) -> Phase:
        """Returns the phase of ``step``, counted from 0."""
        return self.stable if step < self.steps - self.decay_steps else self.decay

    def learning_rate(self, step: int) -> float:
        """Returns the learning rate of ``step``, counted from 0."""
        return self.peak_lr * min(1.0, (step + 1) / self.warmup_steps, (self.steps - step) / max(1, self.decay_steps))


GPU = Recipe(
    steps=6_720,
    decay_steps=3_360,
    stable=Phase((128,), (0.15, 0.8), mixup=0.3),
    decay=Phase((160,), (0.25, 0.9), mixup=0.3),
    batch_size=1024,
    peak_lr=3e-3,
    warmup_steps=300,
    teacher_weight=0.8,
)

RECIPES: dict[str, Recipe] = {
    "cpu": Recipe(),
    "gpu": GPU,
    # Of the recipe "gpu". Smoothed labels would hide from a student how similar the classes are.
    "teacher": replace(GPU, network=WIDE, steps=3_622, decay_steps=1_811, peak_lr=2e-3, label_smoothing=0.0),
    "distill": Recipe(
        steps=2_600,
        decay_steps=1_800,
        stable=Phase((112, 128), (0.2, 0.6)),
        decay=Phase((144,), (0.25, 0.8)),
        peak_lr=8e-4,
    ),
}
