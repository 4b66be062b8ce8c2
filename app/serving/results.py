"""Options and results of classifying one image, with timings."""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from model.head import ActivationMap, Prediction, ScoreFunction

Pixels = npt.NDArray[np.uint8]
"""One decoded image, ``(input_size, input_size, 3)`` RGB."""


@dataclass(frozen=True, slots=True)
class ClassifyOptions:
    """How many classes are returned: at most ``top_k`` (None: the setting), none below ``min_probability``.

    ``function`` makes scores of logits (None: the model's output function).
    """

    top_k: int | None = None
    min_probability: float = 0.0
    function: ScoreFunction | None = None


@dataclass(frozen=True, slots=True)
class Timings:
    """Where the time of one image went, in seconds."""

    decode_s: float
    queue_s: float
    inference_s: float


@dataclass(frozen=True, slots=True)
class Classification:
    """The most probable classes of one image, highest first, and the logits ``(num_classes,)`` of all."""

    predictions: list[Prediction]
    logits: npt.NDArray[np.float32] = field(repr=False)
    timings: Timings


@dataclass(frozen=True, slots=True)
class Embedding:
    """The feature vector of one image, ``(K,)``, with an L2 norm of 1."""

    vector: npt.NDArray[np.float32]
    timings: Timings


@dataclass(frozen=True, slots=True)
class Explanation:
    """Which parts of an image the network attributes to a class: ``map.values.mean() + map.bias`` is the logit."""

    prediction: Prediction
    logit: float
    map: ActivationMap
    pixels: Pixels = field(repr=False)  # (H, W, 3) uint8, what the network saw
    timings: Timings
