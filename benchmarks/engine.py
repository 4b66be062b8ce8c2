"""Images per second of the engine by batch size, with torchvision's network as the baseline, in one run.

    python -m benchmarks.engine --network tiny --batch-sizes 1 8
    python -m benchmarks.engine --isa avx2
    python -m benchmarks.engine --device cuda --batch-sizes 1 32 128

The weights are random: speed does not depend on them. Each engine is measured with as many threads as it accepts
(``concurrency``), which is its throughput under load; the baseline runs one batch at a time, on the same device: on all
cores of the CPU, or in float16 on a GPU.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
import torchvision
from torch import nn

from benchmarks.rounds import ISA_LIMITS, alternate, calls_per_second, keep, median_seconds, ratios, spread
from model.checkpoints.load import LoadedModel, load_model
from model.errors import EngineError
from model.images.transform import Transform
from model.inference.engine import InferenceEngine
from model.inference.selection import Precision, RuntimeName, choose_device

BASELINE = "torchvision eager"
SECONDS = 1.0  # of one measurement of an engine
Batch = npt.NDArray[np.uint8]


def build_model(size: str) -> tuple[LoadedModel, nn.Module]:
    """The same random weights for this project and for torchvision."""
    torch.manual_seed(0)
    return load_torchvision(torchvision.models.get_model(f"convnext_{size}", weights=None))


def load_torchvision(network: nn.Module) -> tuple[LoadedModel, nn.Module]:
    """This project's model with the weights of ``network``, and ``network`` itself, ready for inference."""
    network.eval()
    with tempfile.NamedTemporaryFile(suffix=".pth") as file:
        torch.save(network.state_dict(), file.name)
        return load_model(file.name), network


@dataclass(frozen=True)
class Contender:
    """One way to run the network."""

    name: str
    runtime: RuntimeName
    precision: Precision
    compile: bool = False


CONTENDERS = {
    "cpu": (
        Contender("engine openvino float32", "openvino", "float32"),
        Contender("engine openvino bfloat16", "openvino", "bfloat16"),
        Contender("engine openvino auto", "openvino", "auto"),
    ),
    "cuda": (
        Contender("engine float16", "torch", "float16"),
        Contender("engine bfloat16", "torch", "bfloat16"),
        Contender("engine compiled float16", "torch", "float16", compile=True),
    ),
    "mps": (Contender("engine float32", "torch", "float32"),),
}


def baseline_dtype(device: torch.device) -> torch.dtype:
    """float16 on a GPU, where float32 would be no fair comparison."""
    return torch.float16 if device.type == "cuda" else torch.float32


def baseline_rate(network: nn.Module, batch: Batch, transform: Transform, device: torch.device) -> float:
    """Images per second of the usual steps: to the device, to float, normalize, forward, softmax, to the host."""
    dtype = baseline_dtype(device)
    network = network.to(device, dtype)
    mean, std = (
        torch.tensor(values, device=device, dtype=dtype).view(1, 3, 1, 1) for values in (transform.mean, transform.std)
    )
    pixels = torch.from_numpy(batch).permute(0, 3, 1, 2)  # (N, 3, H, W)

    def work() -> None:
        with torch.inference_mode():
            network((pixels.to(device).to(dtype) / 255 - mean) / std).float().softmax(1).cpu()

    return len(batch) / median_seconds(work, SECONDS)


def engine_rate(engine: InferenceEngine, batch: Batch, seconds: float = SECONDS) -> float:
    """Images per second of ``concurrency`` threads that each run batches of this size."""
    images = list(batch)
    return len(images) * calls_per_second([partial(engine.predict, images)] * engine.concurrency, seconds)


def build_engine(model: LoadedModel, contender: Contender, device: str, size: int) -> InferenceEngine:
    """An engine for batches of one size."""
    engine = InferenceEngine(
        model,
        device=device,
        runtime=contender.runtime,
        precision=contender.precision,
        compile=contender.compile,
        max_batch_size=size,
    )
    engine.warm_up()
    return engine


def measure(network_size: str, batch_sizes: list[int], rounds: int, device: str) -> dict[str, dict[str, list[float]]]:
    """Prints and returns images per second by batch size and engine, one value per round."""
    model, network = build_model(network_size)
    chosen = choose_device(device)
    results: dict[str, dict[str, list[float]]] = {}
    for size in batch_sizes:
        batch = np.random.default_rng(0).integers(0, 256, (size, 224, 224, 3), dtype=np.uint8)
        candidates: dict[str, Callable[[], float]] = {
            BASELINE: partial(baseline_rate, network, batch, model.transform, chosen)
        }
        for contender in CONTENDERS[chosen.type]:
            try:
                engine = build_engine(model, contender, device, size)
            except EngineError as error:
                print(f"{contender.name} is left out: {error}")
                continue
            candidates[f"{contender.name} ({engine.mode})"] = partial(engine_rate, engine, batch)
        results[str(size)] = figures = alternate(candidates, rounds)
        print(f"\nconvnext_{network_size}, batch {size}, {chosen}: images/s, and ratio to {BASELINE}")
        for name in candidates:
            print(f"  {name:64} {spread(figures[name], 1):24} {spread(ratios(figures, name, BASELINE))}", flush=True)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="tiny", choices=["tiny", "small", "base", "large"])
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    parser.add_argument("--isa", choices=ISA_LIMITS, default="native", help="limit the instruction set")
    options = parser.parse_args()
    limits = ISA_LIMITS[options.isa]
    if any(os.environ.get(name) != value for name, value in limits.items()):  # read when the libraries are loaded
        os.environ.update(limits)
        os.execv(sys.executable, [sys.executable, "-m", "benchmarks.engine", *sys.argv[1:]])
    results = measure(options.network, options.batch_sizes, options.rounds, options.device)
    kind = choose_device(options.device).type
    suffix = "".join(f"_{part}" for part in (kind, options.isa) if part not in ("cpu", "native"))
    print(f"\nresults in {keep(f'engine_{options.network}{suffix}', results)}")


if __name__ == "__main__":
    main()
