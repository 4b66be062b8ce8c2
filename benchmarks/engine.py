"""Images per second of the engine by batch size, with torchvision's network as the baseline, in one run.

    python -m benchmarks.engine --network tiny --batch-sizes 1 8
    python -m benchmarks.engine --isa avx2

The weights are random: speed does not depend on them. Each engine is measured with as many threads as it accepts
(``concurrency``), which is its throughput under load; the baseline runs one batch at a time on all cores.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
import torchvision
from torch import nn

from benchmarks.rounds import ISA_LIMITS, alternate, keep, median_seconds, ratios, spread
from model.checkpoints.load import LoadedModel, load_model
from model.errors import EngineError
from model.images.transform import Transform
from model.inference.engine import InferenceEngine, Precision, RuntimeName

BASELINE = "torchvision eager float32"
ENGINES: tuple[tuple[RuntimeName, Precision], ...] = (("openvino", "float32"), ("openvino", "bfloat16"))
SECONDS = 1.0  # of one measurement of an engine
Batch = npt.NDArray[np.uint8]


def build_model(size: str) -> tuple[LoadedModel, nn.Module]:
    """The same random weights for this project and for torchvision."""
    torch.manual_seed(0)
    network = torchvision.models.get_model(f"convnext_{size}", weights=None).eval()
    with tempfile.NamedTemporaryFile(suffix=".pth") as file:
        torch.save(network.state_dict(), file.name)
        return load_model(file.name), network


def baseline_rate(network: nn.Module, batch: Batch, transform: Transform) -> float:
    """Images per second of the usual steps: to float, normalize, forward, softmax."""
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (transform.mean, transform.std))
    pixels = torch.from_numpy(batch).permute(0, 3, 1, 2)  # (N, 3, H, W)

    def work() -> None:
        with torch.inference_mode():
            network((pixels.float() / 255 - mean) / std).softmax(1)

    return len(batch) / median_seconds(work, SECONDS)


def engine_rate(engine: InferenceEngine, batch: Batch) -> float:
    """Images per second of ``concurrency`` threads that each run batches of this size."""
    images = list(batch)
    deadline = time.perf_counter() + SECONDS

    def work(_: int) -> int:
        batches = 0
        while time.perf_counter() < deadline or not batches:
            engine.predict(images)
            batches += 1
        return batches

    started_at = time.perf_counter()
    with ThreadPoolExecutor(engine.concurrency) as threads:
        batches = sum(threads.map(work, range(engine.concurrency)))
    return batches * len(images) / (time.perf_counter() - started_at)


def build_engine(model: LoadedModel, runtime: RuntimeName, precision: Precision, size: int) -> InferenceEngine:
    """An engine for batches of one size."""
    engine = InferenceEngine(model, runtime=runtime, precision=precision, max_batch_size=size)
    engine.warm_up()
    return engine


def measure(network_size: str, batch_sizes: list[int], rounds: int) -> dict[str, dict[str, list[float]]]:
    """Prints and returns images per second by batch size and engine, one value per round."""
    model, network = build_model(network_size)
    results: dict[str, dict[str, list[float]]] = {}
    for size in batch_sizes:
        batch = np.random.default_rng(0).integers(0, 256, (size, 224, 224, 3), dtype=np.uint8)
        candidates: dict[str, Callable[[], float]] = {BASELINE: partial(baseline_rate, network, batch, model.transform)}
        for runtime, precision in ENGINES:
            try:
                engine = build_engine(model, runtime, precision, size)
            except EngineError as error:
                print(f"{runtime} {precision} is left out: {error}")
                continue
            candidates[f"engine {runtime} {precision}"] = partial(engine_rate, engine, batch)
        results[str(size)] = figures = alternate(candidates, rounds)
        print(f"\nconvnext_{network_size}, batch {size}: images/s, and ratio to {BASELINE}")
        for name in candidates:
            print(f"  {name:32} {spread(figures[name], 1):24} {spread(ratios(figures, name, BASELINE))}", flush=True)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="tiny", choices=["tiny", "small", "base", "large"])
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--isa", choices=ISA_LIMITS, default="native", help="limit the instruction set")
    options = parser.parse_args()
    limits = ISA_LIMITS[options.isa]
    if any(os.environ.get(name) != value for name, value in limits.items()):  # read when the libraries are loaded
        os.environ.update(limits)
        os.execv(sys.executable, [sys.executable, "-m", "benchmarks.engine", *sys.argv[1:]])
    results = measure(options.network, options.batch_sizes, options.rounds)
    suffix = "" if options.isa == "native" else f"_{options.isa}"
    print(f"\nresults in {keep(f'engine_{options.network}{suffix}', results)}")


if __name__ == "__main__":
    main()
