"""Images a second of the engine by batch size, beside torchvision's network, eager and compiled, in one run.

    python -m benchmarks.engine --network tiny --batch-sizes 1 4 8

The weights are random: speed does not depend on them.
"""

import argparse
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
import torchvision

from benchmarks.rounds import alternate, keep, median_seconds, ratios, spread
from model.checkpoints.load import LoadedModel, load_model
from model.inference.engine import InferenceEngine, Precision, RuntimeName, TopK
from model.preprocess import Transform

YARDSTICK = "torchvision eager float32"
ENGINES: tuple[tuple[RuntimeName, Precision], ...] = (
    ("openvino", "float32"),
    ("openvino", "bfloat16"),
    ("torch", "float32"),
)


def build_model(size: str, path: str) -> tuple[LoadedModel, torch.nn.Module]:
    """The same random weights in this project's hands and in torchvision's."""
    torch.manual_seed(0)
    network = torchvision.models.get_model(f"convnext_{size}", weights=None).eval()
    torch.save(network.state_dict(), path)
    return load_model(path), network


def torchvision_work(network: torch.nn.Module, batch: np.ndarray, transform: Transform) -> Callable[[], object]:
    """What one writes by hand: to float, normalise, forward, softmax."""
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (transform.mean, transform.std))
    pixels = torch.from_numpy(batch).permute(0, 3, 1, 2)

    def work() -> object:
        with torch.inference_mode():
            return network((pixels.float() / 255 - mean) / std).softmax(1)

    return work


def rate(work: Callable[[], object], size: int) -> float:
    """Images a second of one call for ``size`` images, after one that is not counted."""
    return size / median_seconds(work, 0.0)


def engine_work(model: LoadedModel, runtime: RuntimeName, precision: Precision, batch: np.ndarray) -> partial[TopK]:
    """One call of an engine made for batches of this size."""
    engine = InferenceEngine(model, runtime=runtime, precision=precision, max_batch_size=len(batch))
    engine.warm_up()
    return partial(engine.predict, list(batch), 5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="tiny", choices=["tiny", "small", "base", "large"])
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--no-compile", action="store_true", help="leave out torchvision's network under torch.compile")
    parser.add_argument("--path", default="/tmp/convnext-benchmark.pth", help="where the random weights are put")
    options = parser.parse_args()
    model, network = build_model(options.network, options.path)
    networks = {YARDSTICK: network}
    if not options.no_compile:
        networks["torchvision compiled float32"] = torch.compile(network, dynamic=False)
    kept: dict[str, dict[str, list[float]]] = {}
    for size in options.batch_sizes:
        batch = np.random.default_rng(0).integers(0, 256, (size, 224, 224, 3), dtype=np.uint8)
        work: dict[str, Callable[[], object]] = {
            name: torchvision_work(one, batch, model.transform) for name, one in networks.items()
        }
        work |= {
            f"engine {runtime} {precision}": engine_work(model, runtime, precision, batch)
            for runtime, precision in ENGINES
        }
        contenders = {name: partial(rate, call, size) for name, call in work.items()}
        kept[str(size)] = figures = alternate(contenders, options.rounds)
        print(f"\nconvnext_{options.network}, batch {size}: images/s, and as a ratio to {YARDSTICK}")
        for name in contenders:
            print(f"  {name:32} {spread(figures[name], 1):24} {spread(ratios(figures, name, YARDSTICK))}", flush=True)
    print(f"\nkept in {keep(f'engine_{options.network}', kept)}")


if __name__ == "__main__":
    main()
