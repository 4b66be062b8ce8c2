"""Recipe: every hyper-parameter of a training run, and the schedule they make."""

from dataclasses import dataclass, replace

from model.convnext import ConvNeXtConfig, config_for


@dataclass(frozen=True)
class Phase:
    """Some epochs at one input size (pixels); ``cutmix`` is the share of photos, ``crop_scale`` of their area."""

    epochs: int
    input_size: int
    cutmix: float
    crop_scale: tuple[float, float]


@dataclass(frozen=True)
class Recipe:
    """A run: the network, the phases of growing input size, AdamW, and a schedule in steps rather than in time.

    The learning rate rises linearly over ``warm_up`` steps, stays at its peak, and falls linearly to zero over the
    last ``decay`` share of all steps ("warm-up, stable, decay"): until it falls, the end may be moved on resuming.
    """

    size: str = "atto"
    patch_size: int = 8
    num_classes: int = 200
    phases: tuple[Phase, ...] = (
        Phase(6, 96, 0.7, (0.35, 1.0)),
        Phase(31, 128, 0.7, (0.2, 1.0)),
        Phase(3, 160, 0.4, (0.25, 0.8)),  # crops of half the photo at 160 pixels: as large as all of it at 224
    )
    seed: int = 0
    held_out: int = 4000
    batch_size: int = 256
    muon: bool = True
    peak_lr: float = 2e-3
    weight_decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.99)
    warm_up: int = 150
    decay: float = 0.2
    max_grad_norm: float = 1.0
    ema_decay: float = 0.995
    label_smoothing: float = 0.1
    layer_scale: float = 1.0
    drop_path_rate: float = 0.1
    colour: float = 0.4
    grey: float = 0.1

    @property
    def config(self) -> ConvNeXtConfig:
        """ConvNeXt V1 with the wider patches that enlarged small photos ask for."""
        config = config_for(self.size, 1, self.num_classes)  # type: ignore[arg-type, unused-ignore]
        return replace(config, patch_size=self.patch_size, drop_path_rate=self.drop_path_rate)

    @property
    def epochs(self) -> int:
        return sum(phase.epochs for phase in self.phases)

    def phase_at(self, epoch: int) -> Phase:
        """The phase of an epoch, counted from 0. Raises ``IndexError`` past the last one."""
        for phase in self.phases:
            if epoch < phase.epochs:
                return phase
            epoch -= phase.epochs
        raise IndexError(f"the recipe has {self.epochs} epochs")

    def learning_rate(self, step: int, steps: int) -> float:
        """The rate of step ``step`` of ``steps``, counted from 0."""
        rising = (step + 1) / self.warm_up if self.warm_up else 1.0
        falling = (steps - step) / max(1.0, self.decay * steps)
        return self.peak_lr * min(1.0, rising, falling)


RECIPES: dict[str, Recipe] = {
    "cpu": Recipe(),  # two cores, two hours
    "gpu": Recipe(  # a data-centre GPU; longer, with more regularisation to match
        phases=(Phase(200, 128, 0.5, (0.25, 1.0)), Phase(60, 176, 0.5, (0.25, 1.0)), Phase(20, 224, 0.0, (0.5, 1.0))),
        batch_size=512,
        peak_lr=3e-3,
        ema_decay=0.9998,
        drop_path_rate=0.1,
        colour=0.4,
        grey=0.1,
        warm_up=2000,
        decay=0.45,
    ),
}
