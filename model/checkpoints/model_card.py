"""Card: what is known of a checkpoint besides its tensors."""

from dataclasses import dataclass

from model.convnext import ConvNeXtConfig
from model.preprocess import Transform


@dataclass(frozen=True)
class Card:
    """What a registry entry, a file's header or the JSON files of a folder say; None is what they leave open.

    ``norm_eps``, ``head_norm_eps`` and ``num_classes`` refine a configuration that is inferred from the tensors;
    ``top1`` is the published accuracy in percent; ``notes`` are for the person who starts the service.
    """

    name: str
    licence: str | None = None
    transform: Transform | None = None
    labels: tuple[str, ...] | None = None
    config: ConvNeXtConfig | None = None
    norm_eps: float | None = None
    head_norm_eps: float | None = None
    num_classes: int | None = None
    top1: float | None = None
    notes: tuple[str, ...] = ()
