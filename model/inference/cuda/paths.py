"""Comparison of paths: each is compared with float32 and timed on the device, and used where it is right and faster."""

import logging
import math
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from model.images.transform import Pixels
from model.inference.cuda.slot import Forward, Slot
from model.inference.runtime import Outputs

logger = logging.getLogger(__name__)

LIMIT = 1e-2  # relative error; in bfloat16, the eager network itself may exceed it
_ROUNDING = 2.0  # times the error of the eager network, as another order of summation has another rounding error
_RUNS = 10
_REFERENCE_BATCH = 8


@dataclass(frozen=True)
class Candidate:
    """One way to compute the network; ``paths`` names what differs from the eager or compiled one."""

    forward: Forward
    graphs: bool = False
    paths: tuple[str, ...] = ()


Choice = dict[int, Candidate]
"""How to compute a batch, by its size."""


def relative_error(found: npt.NDArray[np.float32], expected: npt.NDArray[np.float32]) -> float:
    """``‖found - expected‖ / ‖expected‖``; infinite if something is not finite."""
    difference = np.linalg.norm((found - expected).astype(np.float64)) / np.linalg.norm(expected.astype(np.float64))
    return float(difference) if np.isfinite(difference) else math.inf


def reference_outputs(slot: Slot, forward: Forward, images: Sequence[Pixels]) -> Outputs:
    """The outputs of ``forward`` for all ``images``, a few at a time."""
    parts = []
    for first in range(0, len(images), _REFERENCE_BATCH):
        part = images[first : first + _REFERENCE_BATCH]
        parts.append(slot.run(part, len(part), forward, features=True))
    maps = [part.features for part in parts if part.features is not None]
    return Outputs(np.concatenate([part.logits for part in parts]), np.concatenate(maps))


class Comparison:
    """Compares candidates on ``slot``: their results with the ``expected`` ones of ``images``, and their times.

    ``calibrate`` comes first; then ``better`` for one path after the other, each on top of those that were used.
    """

    def __init__(self, slot: Slot, images: Sequence[Pixels], expected: Outputs) -> None:
        self._slot = slot
        self._images = images
        self._expected = expected
        self._limit = LIMIT

    def calibrate(self, baseline: Candidate, sizes: Iterable[int]) -> None:
        """Takes the error of the eager network as a measure for that of the others."""
        error = self._error(dict.fromkeys(sizes, baseline))
        self._limit = max(LIMIT, _ROUNDING * error) if math.isfinite(error) else LIMIT
        logger.info("relative error of the eager network: %.1e", error)

    def better(self, current: Choice, name: str, build: Callable[[], Choice], tolerance: float = 1.0) -> Choice:
        """For each batch size of ``current``, the candidate that ``build`` returns for it if it is faster.

        It is faster if it takes less than ``tolerance`` times as long. If one fails or deviates at one size, none is
        used. Raises what running ``current`` raises, if the failure has damaged the device.
        """
        before = self._seconds(current)
        reason = ""
        try:
            candidates = build()
            error = self._error(candidates)
            after = self._seconds(candidates)
        except Exception:  # noqa: BLE001 - whatever it is, the service must not depend on it
            reason = f"it fails:\n{traceback.format_exc()}"
        if reason:  # the exception, which keeps its tensors alive, is gone
            logger.warning("not using %s: %s", name, reason)
            self._error(current)
            return current
        times = ", ".join(f"{size}: {1000 * before[size]:.3f} → {1000 * after[size]:.3f} ms" for size in current)
        measured = f"relative error {error:.1e}; time by batch size {times}"
        faster = [size for size in current if after[size] < tolerance * before[size]]
        if error > self._limit or not faster:
            logger.warning("not using %s: %s", name, measured)
            return current
        logger.info("using %s for batches of %s: %s", name, ", ".join(map(str, faster)), measured)
        return {size: candidates[size] if size in faster else current[size] for size in current}

    def is_right(self, slot: Slot, size: int, candidate: Candidate) -> bool:
        """Whether a batch of ``size`` on ``slot``, by its graph if there is one, has the expected result."""
        found = slot.run(self._images[:size], size, candidate.forward, features=True)
        return self._difference(found, size) <= self._limit

    def _prepare(self, size: int, candidate: Candidate) -> None:
        if candidate.graphs:
            self._slot.capture(size, candidate.forward)
        else:
            self._slot.forget(size)

    def _error(self, candidates: Choice) -> float:
        """The largest one of the errors of logits and features, at all sizes."""
        errors = []
        for size, candidate in candidates.items():
            self._prepare(size, candidate)
            found = self._slot.run(self._images[:size], size, candidate.forward, features=True)
            errors.append(self._difference(found, size))
        return max(errors)

    def _difference(self, found: Outputs, size: int) -> float:
        assert found.features is not None and self._expected.features is not None  # noqa: S101, PT018 - were asked for
        return max(
            relative_error(found.logits, self._expected.logits[:size]),
            relative_error(found.features, self._expected.features[:size]),
        )

    def _seconds(self, candidates: Choice) -> dict[int, float]:
        """The least time on the device, for each size: other processes may use it, too."""
        times = {}
        for size, candidate in candidates.items():
            self._prepare(size, candidate)

            def launch(size: int = size, forward: Forward = candidate.forward) -> None:
                self._slot.launch(size, forward)

            with torch.inference_mode(), self._slot.stream.active():
                launch()
                times[size] = min(self._slot.stream.seconds(launch) for _ in range(_RUNS))
        return times
