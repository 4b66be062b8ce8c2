"""ModelCard: what is known about a checkpoint besides its tensors."""

from dataclasses import dataclass

from model.convnext import ConvNeXtConfig
from model.errors import CheckpointError
from model.head import Activation
from model.images.transform import Transform
from model.labels import is_unicode


@dataclass(frozen=True)
class ModelCard:
    """Metadata from a registry entry, a file header or the JSON files of a folder; None if unknown.

    ``norm_eps``, ``head_norm_eps``, ``num_classes`` and ``patch_size`` complete a configuration that is inferred from
    the tensors. ``top1`` is the published accuracy in percent. ``notes`` are logged when the checkpoint is loaded.
    Raises ``CheckpointError`` if the name or the licence is not text.
    """

    name: str
    licence: str | None = None
    transform: Transform | None = None
    labels: tuple[str, ...] | None = None
    config: ConvNeXtConfig | None = None
    norm_eps: float | None = None
    head_norm_eps: float | None = None
    num_classes: int | None = None
    patch_size: int | None = None
    activation: Activation | None = None
    top1: float | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for value in (self.name, self.licence):
            if value is not None and not is_unicode(value):
                raise CheckpointError(f"the name and the licence must be text, found {value!r}")
