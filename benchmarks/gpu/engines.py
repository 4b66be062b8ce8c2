"""Images per second by network and batch size: torchvision eager, torch.compile, and this engine; one image's latency.

Every contender takes pixels from the host's memory and returns scores to it. torchvision runs in the engine's
precision, with cuDNN's benchmark mode and pinned memory, in the faster one of both memory formats; normalization and
softmax are compiled along. It runs one batch at a time; the engine runs as many as it accepts, so that copies overlap.
The rates named "resident", of pixels that are on the device already, bound what torchvision could gain from that.
"""

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmarks.engine import engine_rate
from benchmarks.gpu.step import SMALL, Batch, Options, Results, batch_of, build, start
from benchmarks.rounds import median_seconds
from model.images.transform import Transform
from model.inference.engine import InferenceEngine

NETWORKS = {"tiny": (128, 1, 8, 32, 256), "base": (128, 1, 32)}  # batch sizes
COMPILED = (("tiny", 128), ("tiny", 1), ("base", 128), ("tiny", 32), ("base", 1), ("tiny", 256), ("base", 32))
COMPILATION_S = 30.0  # with less time left, nothing more is compiled
SIZE_S = 5.0  # with less, no other size is measured
ROUNDS = 3
SECONDS = 0.4

Work = Callable[[], object]


class Classifier(nn.Module):
    """Pixels ``(N, H, W, 3)`` uint8 to scores ``(N, classes)``: normalize, forward, softmax."""

    memory_format = torch.contiguous_format

    def __init__(self, network: nn.Module, transform: Transform, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__()
        self.network = network.to(device, dtype)
        mean, std = torch.tensor([transform.mean, transform.std], device=device).view(2, 1, 3, 1, 1)
        self.scale, self.shift = nn.Buffer((1 / (255 * std)).to(dtype)), nn.Buffer((-mean / std).to(dtype))

    def arranged(self, memory_format: torch.memory_format) -> "Classifier":
        """Itself, computing in ``memory_format``."""
        self.memory_format = memory_format
        return self.to(memory_format=memory_format)

    def forward(self, pixels: Tensor) -> Tensor:
        x = pixels.permute(0, 3, 1, 2).to(self.scale.dtype, memory_format=self.memory_format)  # (N, 3, H, W)
        scores: Tensor = self.network(x * self.scale + self.shift).float().softmax(1)
        return scores


def torch_works(classify: Callable[[Tensor], Tensor], batch: Batch, device: torch.device) -> dict[str, Work]:
    """Batches from the host to the host, and on the device."""
    pixels = torch.from_numpy(batch)
    pixels = pixels.pin_memory() if device.type == "cuda" else pixels
    resident = pixels.to(device)

    def whole() -> None:
        with torch.no_grad():
            classify(pixels.to(device, non_blocking=True)).cpu()

    def on_device() -> None:
        with torch.no_grad():
            classify(resident)
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return {"": whole, " resident": on_device}


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
    torch.backends.cudnn.benchmark = False  # as in the service
    started = time.perf_counter()
    engine = InferenceEngine(model, device=options.device, max_batch_size=max(sizes))
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
    torch.backends.cudnn.benchmark = True  # for torchvision; the engine's graphs are recorded
    device = options.torch_device
    eager = Classifier(network, model.transform, device, engine.dtype)
    formats = {"eager": torch.contiguous_format, "eager channels last": torch.channels_last}
    for size in sizes:
        if options.seconds_left < SIZE_S:
            break
        batch = batch_of(size)
        rates: dict[str, list[float]] = {label: [] for label in ("engine", *formats)}
        for _ in range(ROUNDS):
            if size <= engine.max_batch_size:
                rates["engine"].append(engine_rate(engine, batch, SECONDS))
            for label, memory_format in formats.items():
                work = torch_works(eager.arranged(memory_format), batch, device)[""]
                rates[label].append(size / median_seconds(work, SECONDS))
        results.add(f"{name} batch {size}", rates)


def measure_compiled(name: str, size: int, options: Options, results: Results) -> None:
    """torch.compile with its most thorough mode, which uses CUDA graphs, for one batch size."""
    model, network = build(name)
    device = options.torch_device
    dtype = torch.float16 if device.type == "cuda" else torch.float32
    classifier = Classifier(network, model.transform, device, dtype).arranged(torch.channels_last)
    compiled = torch.compile(classifier, mode="default" if options.small else "max-autotune", dynamic=False)
    works = torch_works(compiled, batch_of(size), device)
    started = time.perf_counter()
    for _ in range(3):  # compiles; runs; records a graph
        works[""]()
    figures: dict[str, object] = {"compilation s": time.perf_counter() - started}
    for label, work in works.items():
        figures[f"rates{label}"] = [size / median_seconds(work, SECONDS) for _ in range(ROUNDS)]
        results.add(f"{name} batch {size} compiled", figures)


def main() -> None:
    options, results = start(__doc__)
    networks = {SMALL: (2, 1)} if options.small else NETWORKS
    for name, sizes in networks.items():
        with results.attempt(f"{name} failed"):
            measure_network(name, sizes, options, results)
    for name, size in ((SMALL, 2),) if options.small else COMPILED:
        if options.seconds_left < COMPILATION_S:
            results.add("not compiled for lack of time", f"{name} batch {size} and later")
            break
        torch.compiler.reset()
        with results.attempt(f"{name} batch {size} compiled"):
            measure_compiled(name, size, options, results)


if __name__ == "__main__":
    main()
