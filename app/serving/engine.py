"""Engine: the service's interface to the network."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from model.head import Activation, HeadWeights

if TYPE_CHECKING:  # importing it would import torch
    from model.images.transform import Transform

Pixels = npt.NDArray[np.uint8]
"""One decoded image, ``(input_size, input_size, 3)`` RGB."""


class ServedModel(Protocol):
    """The loaded checkpoint, as far as responses name it."""

    @property
    def name(self) -> str: ...
    @property
    def family(self) -> str: ...
    @property
    def labels(self) -> tuple[str, ...]: ...
    @property
    def activation(self) -> Activation: ...
    @property
    def transform(self) -> "Transform": ...
    @property
    def licence(self) -> str: ...
    @property
    def sha256(self) -> str: ...


class Engine(Protocol):
    """Runs one network; ``concurrency`` threads may call ``predict`` at the same time. See ``InferenceEngine``."""

    @property
    def model(self) -> ServedModel: ...
    @property
    def head(self) -> HeadWeights: ...
    @property
    def device(self) -> object: ...
    @property
    def precision(self) -> str: ...
    @property
    def precision_reason(self) -> str: ...
    @property
    def mode(self) -> str: ...
    @property
    def input_size(self) -> int: ...
    @property
    def parameters(self) -> int: ...
    @property
    def max_batch_size(self) -> int: ...
    @property
    def concurrency(self) -> int: ...
    @property
    def expected_rate(self) -> float:
        """Images per second; 0 if not measured."""
        ...

    def predict(self, images: Sequence[Pixels], *, idle: bool = False) -> npt.NDArray[np.float32]:
        """Logits ``(N, num_classes)``; ``idle`` if nothing else needs the cores."""
        ...

    def predict_with_features(
        self, images: Sequence[Pixels], *, idle: bool = False
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Logits, and the last feature maps ``(N, K, H, W)``."""
        ...
