"""Too little memory, a lost device and a failed recording, each in a process of its own; skipped without CUDA."""

import subprocess
import sys
from collections.abc import Iterator
from subprocess import PIPE

import pytest
import torch

from tests.constants import ROOT

if not torch.cuda.is_available():
    pytest.skip("there is no CUDA device", allow_module_level=True)

SET_UP = """
import os, tempfile, torch
from pathlib import Path
from model import load_model
from model.errors import DeviceLost
from model.inference.engine import InferenceEngine
from tests.gpu.networks import save_network, smooth_images
images = smooth_images(4)
with tempfile.TemporaryDirectory() as folder:
    save_network(Path(folder) / "network.safetensors")
    model = load_model(Path(folder) / "network.safetensors")
"""

LOW_MEMORY = """
room = 0.75 * 2**30
torch.cuda.set_per_process_memory_fraction(room / torch.cuda.get_device_properties(0).total_memory)
engine = InferenceEngine(model, device="cuda", max_batch_size=256)
engine.warm_up()
assert 1 <= engine.max_batch_size < 256, engine.max_batch_size
assert len(engine.predict(images[:1] * engine.max_batch_size)) == engine.max_batch_size
print("served", engine.max_batch_size, engine.mode)
"""

LOST = """
engine = InferenceEngine(model, device="cuda", max_batch_size=4)
engine.warm_up()
engine.predict(images)
torch.zeros(4, device="cuda")[torch.tensor([4], device="cuda")]  # fails an assertion in a kernel
for _ in range(2):
    try:
        engine.predict(images)
    except DeviceLost:
        print("lost", flush=True)
os._exit(0)  # torch's destructors abort a process that has lost its device
"""

FAILED_RECORDING = """
import torch
from model.inference.cuda.gpu import CudaGpu
gpu = CudaGpu(torch.device("cuda:0"))
stream, x = gpu.stream(), torch.ones(4, device="cuda")
gpu.synchronize()
for _ in range(2):
    try:
        stream.capture(lambda: x + x.sum().item())  # waits, which a recording may not
    except RuntimeError:
        print("failed")
    replay, result = stream.capture(lambda: 2 * x)
    with stream.active():
        replay()
    stream.wait()
    print(result.tolist() == [2] * 4)
"""


@pytest.fixture(scope="module")
def started() -> Iterator[dict[str, subprocess.Popen[str]]]:
    """All at once, as most of their time goes into imports."""
    scripts = {"low memory": SET_UP + LOW_MEMORY, "lost": SET_UP + LOST, "failed recording": FAILED_RECORDING}
    processes = {
        name: subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=PIPE, stderr=PIPE, text=True)
        for name, script in scripts.items()
    }
    yield processes
    for process in processes.values():
        process.kill()
        process.communicate()


def output_of(process: subprocess.Popen[str]) -> str:
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors[-3000:]
    return output


def test_a_failed_recording_does_not_prevent_others(started: dict[str, subprocess.Popen[str]]) -> None:
    assert output_of(started["failed recording"]).split() == ["failed", "True"] * 2


def test_a_failed_assertion_in_a_kernel_is_a_lost_device(started: dict[str, subprocess.Popen[str]]) -> None:
    assert output_of(started["lost"]).split() == ["lost", "lost"]


def test_too_little_memory_lowers_the_batch_size(started: dict[str, subprocess.Popen[str]]) -> None:
    assert output_of(started["low memory"]).startswith("served")
