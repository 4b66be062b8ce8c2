"""Logits and feature maps to scores, labelled predictions, embeddings and activation maps.

Class activation maps are those of Zhou et al., "Learning Deep Features for Discriminative Localization" (CVPR 2016),
extended by the head's LayerNorm. No backward pass is needed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:  # importing torch takes seconds, and what is used without a network does not need it
    from model.convnext import Head

Array = npt.NDArray[np.float32]
Activation = Literal["softmax", "sigmoid"]
"""The output function: one class per image, or any number of independent classes."""
ScoreFunction = Literal["softmax", "sigmoid", "none"]


@dataclass(frozen=True, slots=True)
class Prediction:
    """One class of an image; ``probability`` is that of the model's output function, unless another is requested."""

    label: str
    class_id: int
    probability: float


def top_predictions(
    scores: Array, labels: Sequence[str], top_k: int, min_score: float | None = None
) -> list[Prediction]:
    """The ``top_k`` classes with the highest ``scores`` ``(num_classes,)``, highest first; none below ``min_score``.

    Of equal scores, that of the lower class id comes first.
    """
    top_k = min(top_k, len(scores))
    lowest = np.partition(scores, -top_k)[-top_k]
    candidates = np.flatnonzero(scores >= lowest)  # more than top_k if scores are equal
    order = candidates[np.argsort(-scores[candidates], kind="stable")[:top_k]]
    pairs = zip(order.tolist(), scores[order].tolist(), strict=True)
    return [Prediction(labels[i], i, score) for i, score in pairs if min_score is None or score >= min_score]


def scores(logits: Array, function: ScoreFunction) -> Array:
    """What ``function`` makes of logits ``(..., num_classes)``."""
    values: Array = logits
    if function == "softmax":
        values = np.exp(logits - logits.max(axis=-1, keepdims=True))
        values /= values.sum(axis=-1, keepdims=True)
    elif function == "sigmoid":
        values = np.exp(-np.logaddexp(0, -logits))
    return values


@dataclass(frozen=True, slots=True)
class ActivationMap:
    """How much each position of an image adds to a logit, ``(H, W)``: ``values.mean() + bias`` is the logit."""

    values: Array
    bias: float


@dataclass(frozen=True)
class HeadWeights:
    """The weights of a head, before folding: LayerNorm ``scale`` and ``shift`` ``(K,)``, classifier ``(classes, K)``.

    The methods take the last feature map of one image, ``(K, H, W)``, and compute in float64.
    """

    scale: Array
    shift: Array
    eps: float
    weight: Array
    bias: Array
    norm_before_pool: bool = False

    @classmethod
    def of(cls, head: "Head") -> "HeadWeights":
        """The weights of ``head``, whose memory they share."""
        tensors = (head.norm.weight, head.norm.bias, head.fc.weight, head.fc.bias)
        scale, shift, weight, bias = (tensor.detach().float().cpu().numpy() for tensor in tensors)
        return cls(scale, shift, head.norm.eps, weight, bias, head.norm_before_pool)

    def embed(self, features: Array) -> Array:
        """The embedding ``(K,)`` of an image: what the classifier sees, with an L2 norm of 1.

        The dot product of two embeddings is their cosine similarity.
        """
        centered, deviation = self._normalize(features)
        pooled = (centered / deviation).mean((1, 2)) * self.scale + self.shift
        norm = np.linalg.norm(pooled)
        return np.asarray(pooled / (norm or 1.0), np.float32)

    def activation_map(self, features: Array, class_id: int) -> ActivationMap:
        """The exact class activation map: each position's contribution to the logit of ``class_id``.

        With a_k = W_ck·g_k - mean_j(W_cj·g_j), a position's value is Σ_k a_k·f_k / σ, where σ is the deviation of the
        pooled features, or of the position's own if the head normalizes before it pools. Subtracting the mean of
        W_c·g from the weights does what LayerNorm does by subtracting the mean of the features.
        """
        weight = self.weight[class_id].astype(np.float64)
        scaled = weight * self.scale
        _, deviation = self._normalize(features)
        values = np.tensordot(scaled - scaled.mean(), features, 1) / deviation[0]
        return ActivationMap(np.asarray(values, np.float32), float(weight @ self.shift + self.bias[class_id]))

    def _normalize(self, features: Array) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """The features ``(K, H, W)`` less their mean over the channels, and their deviation ``(1, H, W)`` or 1×1."""
        exact = features.astype(np.float64)
        source = exact if self.norm_before_pool else exact.mean((1, 2), keepdims=True)
        deviation = np.sqrt(source.var(0, keepdims=True) + self.eps)
        return source - source.mean(0), deviation
