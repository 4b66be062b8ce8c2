"""Proves faster paths: each is compared with float32 and timed on the device, and used only if right and faster."""

import logging
import math
import statistics
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


class Proof:
    """Compares candidates on ``slot`` with the ``expected`` outputs of ``images``, and their times at ``sizes``."""

    def __init__(self, slot: Slot, images: Sequence[Pixels], sizes: Iterable[int], expected: Outputs) -> None:
        self._slot = slot
        self._images = images
        self._sizes = sorted(set(sizes))
        self._expected = expected
        self._limit = LIMIT
        self._prepared: Candidate | None = None

    def accept(self, baseline: Candidate) -> None:
        """Takes the error of the eager network as a measure for that of the others."""
        error = self._error(baseline)
        self._limit = max(LIMIT, _ROUNDING * error) if math.isfinite(error) else LIMIT

    def better(self, current: Candidate, name: str, build: Callable[[], Candidate]) -> Candidate:
        """The candidate that ``build`` returns if it is right and faster than ``current``, else ``current``.

        Raises what running ``current`` raises, if the candidate's failure has damaged the device.
        """
        before = self._seconds(current)
        reason = ""
        try:
            candidate = build()
            error = self._error(candidate)
            after = self._seconds(candidate)
        except Exception:  # noqa: BLE001 - whatever it is, the service must not depend on it
            reason = f"it fails:\n{traceback.format_exc()}"
        if reason:  # the exception, which keeps its tensors alive, is gone
            logger.warning("not using %s: %s", name, reason)
            self._error(current)
            return current
        ratio = statistics.geometric_mean(old / new for old, new in zip(before, after, strict=True))
        measured = f"{ratio:.2f} times as fast ({self._times(before, after)}), relative error {error:.1e}"
        if error > self._limit or ratio <= 1:
            logger.warning("not using %s: %s", name, measured)
            return current
        logger.info("using %s: %s", name, measured)
        return candidate

    def _times(self, before: Sequence[float], after: Sequence[float]) -> str:
        rows = zip(self._sizes, before, after, strict=True)
        return ", ".join(f"batch {size}: {1000 * old:.3f} → {1000 * new:.3f} ms" for size, old, new in rows)

    def is_right(self, slot: Slot, size: int, candidate: Candidate) -> bool:
        """Whether a batch of ``size`` on ``slot``, by its graph if there is one, has the expected result."""
        found = slot.run(self._images[:size], size, candidate.forward, features=True)
        return self._difference(found, size) <= self._limit

    def _prepare(self, candidate: Candidate) -> None:
        """Captures its graphs at all sizes, unless those of the slot are its own."""
        if candidate is self._prepared:
            return
        self._prepared = None
        self._slot.forget()
        for size in self._sizes if candidate.graphs else ():
            self._slot.capture(size, candidate.forward)
        self._prepared = candidate

    def _error(self, candidate: Candidate) -> float:
        """The larger one of the errors of logits and features, at all sizes."""
        self._prepare(candidate)
        runs = (
            (self._slot.run(self._images[:size], size, candidate.forward, features=True), size) for size in self._sizes
        )
        return max(self._difference(found, size) for found, size in runs)

    def _difference(self, found: Outputs, size: int) -> float:
        assert found.features is not None and self._expected.features is not None  # noqa: S101, PT018 - were asked for
        return max(
            relative_error(found.logits, self._expected.logits[:size]),
            relative_error(found.features, self._expected.features[:size]),
        )

    def _seconds(self, candidate: Candidate) -> list[float]:
        """The least time on the device, for each size: other processes may use it, too."""
        self._prepare(candidate)
        times = []
        with torch.inference_mode(), self._slot.stream.active():
            for size in self._sizes:

                def launch(size: int = size) -> None:
                    self._slot.launch(size, candidate.forward)

                launch()
                times.append(min(self._slot.stream.seconds(launch) for _ in range(_RUNS)))
        return times
