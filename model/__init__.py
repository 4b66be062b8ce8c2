"""ConvNeXt and its checkpoints: ``load_model(name_or_path)`` returns a network with its transform and labels."""

from model.checkpoints.load import LoadedModel, load_model
from model.preprocess import Transform

__all__ = ["LoadedModel", "Transform", "load_model"]
