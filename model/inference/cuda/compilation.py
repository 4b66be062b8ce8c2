"""compile_kernels: all Triton kernels that a network may use, compiled on all cores before any of them is measured."""

import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from threading import Event
from typing import cast

import torch
from filelock import FileLock, Timeout
from torch import nn

from model.convnext import Block, ConvNeXt, Stage
from model.inference.cpu import available_cores
from model.inference.cuda.depthwise import candidate_tiles, compile_kernel, supports
from model.inference.cuda.norm import compile_norm

logger = logging.getLogger(__name__)

Compile = Callable[[], None]

_LOCK_TIMEOUT_S = 120.0


def compile_kernels(network: ConvNeXt, dtype: torch.dtype, input_size: int, sizes: Sequence[int]) -> None:
    """Compiles for the active device. What fails is logged, and reported when the kernel is launched.

    Processes that start at the same time and share a cache take turns: the others find what the first has compiled.
    """
    try:
        kernels = dict.fromkeys(_kernels(network, dtype, input_size, sizes))
        with _turn():
            compile_in_parallel([partial(compile_, *arguments) for compile_, arguments in kernels])
    except Exception:  # for example without Triton; each kernel is compiled when it is launched
        logger.info("kernels are not compiled in advance", exc_info=True)


def compile_in_parallel(compiles: Sequence[Compile]) -> None:
    """Runs calls of ``compile_kernel`` and ``compile_norm``; Triton releases the interpreter lock most of the time.

    What fails is compiled again, alone: before 3.11.8, Python sometimes fails to parse a function's source while
    another thread does (https://github.com/python/cpython/issues/106905).
    """
    from triton import AsyncCompileMode

    prepared = Event()
    threads = ThreadPoolExecutor(available_cores(), initializer=prepared.wait)
    with threads, AsyncCompileMode(threads, ignore_errors=True):
        try:
            for compile_ in compiles:
                compile_()  # parses each function once, for its hash: nothing else may be parsed yet
        finally:
            prepared.set()
    for compile_ in compiles:
        try:
            compile_()
        except Exception as error:  # noqa: BLE001 - Triton raises errors of many kinds
            logger.info("a kernel is not compiled in advance: %s", error)


def _kernels(
    network: ConvNeXt, dtype: torch.dtype, input_size: int, sizes: Sequence[int]
) -> Iterator[tuple[Callable[..., None], tuple[object, ...]]]:
    """A function and its arguments for each kernel, the slow ones first."""
    config = network.config
    if not all(supports(width) for width in config.widths):
        return
    stages = [cast(Stage, stage) for stage in network.stages]
    side = input_size // config.patch_size
    for stage, channels in zip(stages, config.widths, strict=True):
        eps = cast(Block, stage.blocks[0]).norm.eps
        for tile in (tile for size in reversed(sizes) for tile in candidate_tiles(side, channels, size)):
            yield compile_kernel, (dtype, channels, eps, tile)
        side //= 2
    if config.stem == "patch":
        yield compile_norm, (dtype, config.widths[0], 1, cast(nn.LayerNorm, network.stem[1]).eps)
    for stage, channels in zip(stages[1:], config.widths, strict=False):
        norm, conv = cast(tuple[nn.LayerNorm, nn.Conv2d], tuple(cast(nn.Sequential, stage.downsample)))
        yield compile_norm, (dtype, channels, conv.kernel_size[0], norm.eps)


def _turn() -> AbstractContextManager[object]:
    """A lock among the processes that share Triton's cache, or nothing if there can be none."""
    from triton import knobs

    lock = FileLock(Path(knobs.cache.dir) / "convnext.lock")
    try:
        Path(knobs.cache.dir).mkdir(parents=True, exist_ok=True)
        return lock.acquire(_LOCK_TIMEOUT_S)
    except (OSError, Timeout, NotImplementedError):  # a read-only folder, a slow process, no locks
        return nullcontext()  # only saves work: Triton replaces the files of its cache atomically
