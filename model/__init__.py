"""ConvNeXt and its checkpoints: ``load_model(name_or_path)`` returns a network with its transform and labels."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from model.checkpoints.load import LoadedModel, load_model
    from model.images.transform import Transform

__all__ = ["DEFAULT_MODEL", "LoadedModel", "Transform", "load_model"]

DEFAULT_MODEL = "convnext_atto_tiny_imagenet_200"
"""The registered name of the embedded model."""


def __getattr__(name: str) -> object:
    """Imports the public names when they are used: torch, which they need, takes seconds."""
    if name == "Transform":
        from model.images.transform import Transform

        return Transform
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from model.checkpoints import load

    value: object = getattr(load, name)
    return value
