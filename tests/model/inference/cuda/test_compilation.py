"""All kernels are compiled before they are launched, for a GPU that is not there."""

import logging
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from filelock import FileLock

from model import Transform
from model.convnext import ConvNeXt, ConvNeXtConfig
from model.inference.cuda.compilation import compile_in_parallel, compile_kernels
from model.inference.cuda.depthwise import Tile, candidate_tiles, compile_kernel
from model.inference.cuda.norm import compile_norm
from model.inference.fold import fold

triton = pytest.importorskip("triton", reason="Triton is not installed")
PTXAS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "ptxas"
pytestmark = pytest.mark.skipif(not PTXAS.exists(), reason="Triton has no ptxas")


@pytest.fixture
def compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bool]]:
    """Whether each kernel came from the cache, for a device whose compute capability is 9.0."""
    target = triton.backends.compiler.GPUTarget("cuda", 90, 32)
    device = hash(tmp_path)  # Triton keeps tables by device
    gpu = SimpleNamespace(
        get_current_target=lambda: target, get_current_device=lambda: device, get_current_stream=lambda _: 0
    )
    found: list[bool] = []
    with monkeypatch.context() as patch:
        patch.setattr(triton.knobs.cache, "dir", str(tmp_path))
        patch.setattr(triton.knobs.compilation, "listener", lambda *, cache_hit, **_: found.append(cache_hit))
        triton.runtime.driver.set_active(gpu)
        yield found
        if torch.cuda.is_available():
            triton.runtime.driver.reset_active()


def network() -> ConvNeXt:
    return fold(ConvNeXt(ConvNeXtConfig((1, 1), (8, 16), num_classes=5)), Transform(32, 32))


def test_every_kernel_is_compiled_once(compiled: list[bool]) -> None:
    compile_kernels(network(), torch.float16, 32, [1, 4])
    tiles = {
        (side, tile) for side, width in ((8, 8), (4, 16)) for n in (1, 4) for tile in candidate_tiles(side, width, n)
    }
    assert compiled == [False] * (len(tiles) + 2)  # and the LayerNorms of stem and downsampling
    compile_kernel(torch.float16, 16, 1e-6, candidate_tiles(4, 16, 4)[0])
    compile_norm(torch.float16, 8, 2, 1e-6)
    assert len(compiled) == len(tiles) + 2


def test_another_process_finds_what_has_been_compiled(compiled: list[bool], monkeypatch: pytest.MonkeyPatch) -> None:
    compile_norm(torch.float16, 8, 1, 1e-6)
    monkeypatch.setattr(triton.runtime.driver.active, "get_current_device", lambda: -1)  # whose tables are empty
    compile_norm(torch.float16, 8, 1, 1e-6)
    assert compiled == [False, True]


def test_processes_that_share_a_cache_take_turns(compiled: list[bool], tmp_path: Path) -> None:
    lock = FileLock(tmp_path / "convnext.lock")
    with ThreadPoolExecutor(1) as other:
        with lock:
            start = other.submit(compile_kernels, network(), torch.float16, 32, [1, 4])
            with pytest.raises(TimeoutError):
                start.result(timeout=0.3)
            assert compiled == []
        start.result()
    assert compiled


def test_a_kernel_that_cannot_be_compiled_does_not_stop_the_others(
    compiled: list[bool], caplog: pytest.LogCaptureFixture
) -> None:
    impossible = partial(compile_kernel, torch.float16, 8, 1e-6, Tile(1, 3, 8, 1))  # not a power of 2
    possible = partial(compile_kernel, torch.float16, 8, 1e-6, Tile(1, 8, 8, 1))
    with caplog.at_level(logging.INFO):
        compile_in_parallel([impossible, possible])
    assert caplog.text.count("a kernel is not compiled in advance") == 1
    assert compiled == [False]
    with pytest.raises(triton.CompilationError):
        impossible()


def test_python_need_not_parse_in_several_threads(compiled: list[bool], monkeypatch: pytest.MonkeyPatch) -> None:
    """It may fail before 3.11.8. A hash is left wrong if that happens while it is computed."""
    from model.inference.cuda import kernels

    parsers: list[bool] = []  # whether each was another thread than this one
    parse = triton.JITFunction.parse

    def fail_elsewhere(function: object) -> object:
        parsers.append(threading.current_thread() is not threading.main_thread())
        if parsers[-1]:
            raise SystemError("AST constructor recursion depth mismatch")
        return parse(function)

    functions = [function for function in vars(kernels).values() if isinstance(function, triton.JITFunction)]
    for function in functions:
        monkeypatch.setattr(function, "hash", None)
    monkeypatch.setattr(triton.JITFunction, "parse", fail_elsewhere)
    compile_kernels(network(), torch.float16, 32, [1, 4])
    assert len(compiled) == 10
    assert parsers[: len(functions) + 10] == [False] * len(functions) + [True] * 10


def test_without_a_gpu_nothing_is_compiled_in_advance(
    compiled: list[bool], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_gpu() -> int:
        raise RuntimeError("0 active drivers")

    monkeypatch.setattr(triton.runtime.driver.active, "get_current_device", no_gpu)
    with caplog.at_level(logging.INFO):
        compile_kernels(network(), torch.float16, 32, [1, 4])
    assert compiled == []
    assert "0 active drivers" in caplog.text
