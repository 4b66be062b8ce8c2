"""Where the device's time goes in a full batch of convnext_tiny: the kernels that take most of it."""

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu.step import SMALL, batch_of, build, start
from model.inference.engine import InferenceEngine

BATCHES = 10
KERNELS = 25


def main() -> None:
    options, results = start(__doc__)
    name, size = (SMALL, 2) if options.small else ("tiny", 128)
    engine = InferenceEngine(build(name)[0], device=options.device, runtime="torch", max_batch_size=size)
    engine.warm_up()
    results.add("mode", engine.mode)
    images = list(batch_of(engine.max_batch_size))
    engine.predict(images)
    on_gpu = options.torch_device.type == "cuda"
    with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as profiled:
        for _ in range(BATCHES):
            engine.predict(images)
        if on_gpu:
            torch.cuda.synchronize()
    events = [event for event in profiled.key_averages() if event.self_device_time_total or not on_gpu]
    events.sort(key=lambda event: -(event.self_device_time_total if on_gpu else event.self_cpu_time_total))
    total_us = sum(event.self_device_time_total if on_gpu else event.self_cpu_time_total for event in events)
    results.add("us per batch", total_us / BATCHES)
    for event in events[:KERNELS]:
        spent_us = event.self_device_time_total if on_gpu else event.self_cpu_time_total
        results.add(event.key[:120], {"us per batch": spent_us / BATCHES, "calls": event.count / BATCHES})


if __name__ == "__main__":
    main()
