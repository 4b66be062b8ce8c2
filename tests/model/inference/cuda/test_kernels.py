"""The Triton kernel, without a GPU: interpreted on the CPU, and compiled for GPUs that are not there."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from model.inference.cuda.depthwise import Tile, candidate_tiles
from tests.constants import ROOT

triton = pytest.importorskip("triton", reason="Triton is not installed")
PTXAS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "ptxas"
LIMITS = {"torch.float16": 1e-3, "torch.float32": 1e-6}
SHAPES = [(56, 96, 64), (28, 192, 2), (7, 768, 64), (7, 768, 1), (56, 40, 64)]  # width, channels, batch size
TILES = sorted(
    {(channels, tile) for width, channels, size in SHAPES for tile in candidate_tiles(width, channels, size)}
)


def test_the_result_is_that_of_float64() -> None:
    """For odd sizes, one image and several, partial tiles, and every number of rows; with a value beyond the border."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.model.inference.cuda.interpret"],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=110,
    )
    cases: list[dict[str, Any]] = json.loads(done.stdout)  # Any: JSON
    assert {case["tile"][0] for case in cases if "tile" in case} == {1, 2, 4}
    for case in cases:
        assert case["error"] < LIMITS[case["dtype"]], case


@pytest.mark.skipif(not PTXAS.exists(), reason="Triton has no ptxas")
@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize(("channels", "tile"), TILES, ids=str)
def test_no_tile_spills_registers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, channels: int, tile: Tile, capability: int
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    cubin = tmp_path / "kernel.cubin"
    cubin.write_bytes(compile_kernel(channels, tile, capability))
    usage = subprocess.run(
        [PTXAS.with_name("cuobjdump"), "-res-usage", cubin], capture_output=True, text=True, check=True
    )
    match = re.search(r"REG:(\d+) STACK:(\d+)", usage.stdout + usage.stderr)
    assert match is not None
    registers, stack_bytes = map(int, match.groups())
    assert stack_bytes == 0
    assert registers <= 255


def compile_kernel(channels: int, tile: Tile, capability: int) -> bytes:
    """The machine code for a GPU of compute ``capability`` (90 for 9.0)."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from model.inference.cuda.kernels import depthwise_norm

    constants = {"C": channels, "BC": tile.channels, "TW": tile.columns, "ROWS": tile.rows, "EPS": 1e-6}
    types = {"x": "*fp16", "w": "*fp32", "b": "*fp32", "pad": "*fp16", "y": "*fp16", "H": "i32", "W": "i32"}
    names = depthwise_norm.arg_names
    source = ASTSource(
        fn=depthwise_norm,
        signature={name: types.get(name, "constexpr") for name in names},
        constexprs={(names.index(name),): value for name, value in constants.items()},
        attrs={(names.index(name),): [["tt.divisibility", 16]] for name in types if types[name].startswith("*")},
    )
    options = {"num_warps": tile.warps, "num_stages": 1, "enable_fp_fusion": True}
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    code: bytes = compiled.asm["cubin"]
    return code
