"""Images per second by network and batch size: torchvision eager, torch.compile, and this engine; one image's latency.

Every contender takes pixels from the host and returns scores to it. torchvision runs in the engine's precision, in the
faster one of both memory formats, one batch at a time; the engine runs as many batches at a time as it accepts.
"""

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.engine import engine_rate
from benchmarks.gpu.step import SMALL, Batch, Options, Results, batch_of, build, start
from benchmarks.rounds import median_seconds
from model.images.transform import Transform
from model.inference.engine import InferenceEngine

NETWORKS = ("tiny", "base")
SIZES = (1, 8, 32, 128, 256)
COMPILED = (("tiny", 128), ("base", 128), ("tiny", 1), ("tiny", 32), ("base", 1), ("tiny", 256), ("base", 32))
COMPILATION_S = 35.0  # with less time left, nothing more is compiled
ROUNDS = 3
SECONDS = 0.4


def torch_rate(
    forward: Callable[[Tensor], Tensor], dtype: torch.dtype, batch: Batch, transform: Transform, device: torch.device
) -> float:
    """Images per second of: to the device, to ``dtype``, normalize, forward, softmax, to the host."""
    mean, std = (
        torch.tensor(values, device=device, dtype=dtype).view(1, 3, 1, 1) for values in (transform.mean, transform.std)
    )
    pixels = torch.from_numpy(batch)
    pixels = pixels.pin_memory() if device.type == "cuda" else pixels

    def work() -> None:
        with torch.inference_mode():
            x = pixels.to(device, non_blocking=True).permute(0, 3, 1, 2).to(dtype)
            forward((x / 255 - mean) / std).float().softmax(1).cpu()

    return len(batch) / median_seconds(work, SECONDS)


def latency_ms(engine: InferenceEngine, batch: Batch) -> dict[str, float]:
    """Of a single image on an idle engine, from pixels to logits on the host."""
    image, times = list(batch[:1]), []
    for _ in range(300):
        started = time.perf_counter()
        engine.predict(image, idle=True)
        times.append(1000 * (time.perf_counter() - started))
    return {"p50": statistics.median(times), "p99": statistics.quantiles(times, n=100)[98]}


def measure_network(name: str, sizes: tuple[int, ...], options: Options, results: Results) -> None:
    """Eager and this engine."""
    model, network = build(name)
    started = time.perf_counter()
    engine = InferenceEngine(model, device=options.device, max_batch_size=sizes[-1])
    engine.warm_up()
    results.add(
        f"{name} engine",
        {
            "mode": engine.mode,
            "precision": engine.precision,
            "max_batch_size": engine.max_batch_size,
            "warm-up s": time.perf_counter() - started,
            "batch_seconds": engine.batch_seconds,
        },
    )
    results.add(f"{name} latency ms", latency_ms(engine, batch_of(1)))
    device, dtype = options.torch_device, engine.dtype
    formats = {"eager": torch.contiguous_format, "eager channels last": torch.channels_last}
    for size in sizes:
        batch = batch_of(size)
        rates: dict[str, list[float]] = {label: [] for label in ("engine", *formats)}
        for _ in range(ROUNDS):
            if size <= engine.max_batch_size:
                rates["engine"].append(engine_rate(engine, batch, SECONDS))
            for label, memory_format in formats.items():
                network = network.to(device, dtype).to(memory_format=memory_format)
                rates[label].append(torch_rate(network, dtype, batch, model.transform, device))
        results.add(f"{name} batch {size}", rates)


def measure_compiled(name: str, size: int, options: Options, results: Results) -> None:
    """torch.compile with its most thorough mode, for one batch size."""
    model, network = build(name)
    device = options.torch_device
    dtype = torch.float16 if device.type == "cuda" else torch.float32
    network = network.to(device, dtype).to(memory_format=torch.channels_last)
    started = time.perf_counter()
    forward: Callable[[Tensor], Tensor] = torch.compile(
        network, mode="default" if options.small else "max-autotune", dynamic=False
    )
    first = torch_rate(forward, dtype, batch_of(size), model.transform, device)
    compilation_s = time.perf_counter() - started
    rates = [first, *(torch_rate(forward, dtype, batch_of(size), model.transform, device) for _ in range(ROUNDS - 1))]
    results.add(f"{name} batch {size} compiled", {"rates": rates, "compilation s": compilation_s})


def main() -> None:
    options, results = start(__doc__)
    networks: tuple[str, ...] = (SMALL,) if options.small else NETWORKS
    for name in networks:
        with results.attempt(f"{name} failed"):
            measure_network(name, (1, 2) if options.small else SIZES, options, results)
    for name, size in ((SMALL, 2),) if options.small else COMPILED:
        if options.seconds_left < COMPILATION_S:
            results.add("not compiled for lack of time", f"{name} batch {size} and later")
            break
        torch.compiler.reset()
        with results.attempt(f"{name} batch {size} compiled"):
            measure_compiled(name, size, options, results)


if __name__ == "__main__":
    main()
