"""warm_up: runs, tunes and measures every batch size of a runtime, and finds out which fit into memory."""

import logging
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from model.errors import DeviceLost, EngineError
from model.images.transform import Pixels
from model.inference.device_errors import is_device_lost, is_out_of_memory
from model.inference.runtime import Outputs, Runtime
from model.inference.timing import logged

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

_MEASURE_RUNS = 5
_MEASURE_S = 0.3  # after which no more runs are measured
_MAX_THREADS = 256  # as many as any runtime's concurrency; they are started as needed


class NotFinite(EngineError):
    """The network's results are not finite in the precision of the runtime."""


def warm_up(runtime: Runtime, images: Sequence[Pixels], sizes: Sequence[int], decode_s: float) -> dict[int, float]:
    """Seconds of one batch while all workers of ``runtime`` run one, by batch size.

    Sizes that do not fit into memory on all workers are left out, with a log line. Decoding takes ``decode_s`` per
    image. Raises ``NotFinite``, ``DeviceLost``, or ``EngineError`` if not even one image can be run.
    """
    with ThreadPoolExecutor(_MAX_THREADS, thread_name_prefix="warm-up") as threads:
        trial = _Trial(runtime, images, threads)
        with logged("first batches"):
            fitting = trial.fitting(sizes)
        with logged("tuning"):
            while fitting and trial.attempt(trial.tune, fitting, decode_s) is None:
                fitting.pop()
        seconds: dict[int, float] = {}
        with logged("measuring batches"):
            for size in fitting:
                if (measured_s := trial.attempt(trial.measure, size)) is None:
                    break
                seconds[size] = measured_s
    if not seconds:
        raise EngineError("not even one image fits into the memory of the device")
    if max(seconds) < max(sizes):
        logger.warning("batches of more than %d images do not fit into memory", max(seconds))
    return seconds


class _Trial:
    def __init__(self, runtime: Runtime, images: Sequence[Pixels], threads: ThreadPoolExecutor) -> None:
        self._runtime = runtime
        self._images = images
        self._threads = threads

    def attempt(self, work: Callable[..., Result], *arguments: object) -> Result | None:
        """The result of ``work``, None if there is not enough memory. Raises ``EngineError`` if it fails otherwise."""
        try:
            return work(*arguments)
        except RuntimeError as error:  # for example torch.compile without a compiler
            if is_out_of_memory(error):
                # As text: a record in the log's queue would keep the error, and with it the activations.
                logger.info("%s%s needs more memory: %s", work.__name__, arguments, str(error))
                return None
            logger.info("%s%s fails", work.__name__, arguments, exc_info=True)  # only its first line is passed on
            reason = (str(error).strip() or repr(error)).splitlines()[0]
            kind = DeviceLost if is_device_lost(error) else EngineError
            raise kind(f"the network cannot be run, {self._runtime.mode}: {reason}") from error
        except MemoryError:
            return None

    def fitting(self, sizes: Sequence[int]) -> list[int]:
        """Those up to the largest one that fits: on a GPU, the first batch of each size takes one to two seconds."""
        if self.attempt(self.check, sizes[0]) is None:
            return []
        larger = (count for count in range(len(sizes), 1, -1) if self.attempt(self.check, sizes[count - 1]) is not None)
        return list(sizes[: next(larger, 1)])

    def check(self, size: int) -> bool:
        """Runs a batch on each worker. Raises ``NotFinite``."""
        for outputs in self._run_on_all(size):
            if not np.isfinite(outputs.logits).all():
                raise NotFinite("the result of the network is not finite; check its weights")
        return True

    def tune(self, sizes: Sequence[int], decode_s: float) -> bool:
        """Tunes on a thread that has run batches: PyTorch keeps cuDNN's plans, which take time to build, by thread."""
        self._threads.submit(self._runtime.tune, self._images[: sizes[-1]], sizes, decode_s).result()
        self._run_on_all(sizes[-1])  # tuning may change how many workers there are
        return True

    def measure(self, size: int) -> float:
        """The median of a few runs."""
        times: list[float] = []
        self.check(size)  # the first run of each worker allocates memory
        started_at = time.perf_counter()
        for _ in range(_MEASURE_RUNS):
            self._run_on_all(size, times)
            if time.perf_counter() - started_at > _MEASURE_S:
                break
        return statistics.median(times)

    def _run_on_all(self, size: int, times: list[float] | None = None) -> list[Outputs]:
        def run(_: int) -> Outputs:
            started_at = time.perf_counter()
            outputs = self._runtime.run(self._images[:size], size, idle=False)
            if times is not None:
                times.append(time.perf_counter() - started_at)
            return outputs

        return list(self._threads.map(run, range(self._runtime.concurrency)))
