"""Versions, and the ceilings: copies on the device and from the host, and operations per second of a matrix product."""

import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from benchmarks.gpu.step import start
from benchmarks.rounds import hardware

RUNS = 10


def seconds(device: torch.device, work: Callable[[], object]) -> float:
    """The median time of a few runs."""
    times = []
    for _ in range(RUNS):
        synchronize(device)
        started = time.perf_counter()
        work()
        synchronize(device)
        times.append(time.perf_counter() - started)
    return statistics.median(times[2:])


def copy_seconds(device: torch.device, count: int) -> float:
    """Of ``count`` bytes."""
    source = torch.ones(count, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return seconds(device, lambda: target.copy_(source))


def batch_seconds(device: torch.device, images: int) -> dict[str, float]:
    """Of what a batch needs beside the network, per image: filling and copying the pinned pixels, reading scores."""
    photos = [np.ones((224, 224, 3), np.uint8) for _ in range(images)]
    pixels = torch.zeros((images, 224, 224, 3), dtype=torch.uint8, pin_memory=device.type == "cuda")
    scores = torch.zeros((images, 1000), pin_memory=device.type == "cuda")
    target = pixels.to(device)
    works: dict[str, Callable[[], object]] = {
        "fill the pinned pixels": lambda: np.stack(photos, out=pixels.numpy()),
        "copy them to the device": lambda: target.copy_(pixels, non_blocking=True),
        "read the pinned scores": lambda: scores.numpy().copy(),
    }
    return {name: seconds(device, work) / images for name, work in works.items()}


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main() -> None:
    options, results = start(__doc__)
    device = options.torch_device
    results.add("hardware", hardware())
    results.add("device", str(device))
    if device.type == "cuda":
        results.add("cuda", {"runtime": torch.version.cuda, "cudnn": torch.backends.cudnn.version()})  # type: ignore[no-untyped-call]  # torch's
    count = 2**20 if options.small else 2**31
    results.add("copy, bytes read and written per second", 2 * count / copy_seconds(device, count))
    results.add("seconds per image", batch_seconds(device, 4 if options.small else 256))
    side = 256 if options.small else 8192
    for dtype in (torch.float16, torch.bfloat16):
        left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
        product_s = seconds(device, lambda left=left, right=right: left @ right)  # type: ignore[misc]  # defaults only bind
        results.add(f"matrix product {dtype}, operations per second", 2 * side**3 / product_s)


if __name__ == "__main__":
    main()
