"""What the steps share: options, results that outlive a step that is stopped, networks and photos."""

import argparse
import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import nn
from torchvision.models import convnext

from benchmarks.engine import load_torchvision
from benchmarks.photos import make_photos
from model.checkpoints.load import LoadedModel
from model.inference.selection import choose_device

SAMPLES = Path(__file__).parents[2] / "app" / "api" / "static" / "samples"
SMALL = "small"  # stands for a published network in a rehearsal

Batch = npt.NDArray[np.uint8]  # (N, 224, 224, 3)


@dataclass(frozen=True)
class Options:
    """``device`` as the engine takes it; ``small`` for a rehearsal; a step ends by itself at ``deadline``."""

    output: Path
    device: str
    small: bool
    deadline: float  # of time.monotonic
    photos: Path | None

    @property
    def seconds_left(self) -> float:
        """Until the deadline."""
        return self.deadline - time.monotonic()

    @property
    def torch_device(self) -> torch.device:
        """The chosen device."""
        return choose_device(self.device)


class Results:
    """Values by name, written to the file after every change."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._values: dict[str, object] = {}

    def add(self, name: str, value: object) -> None:
        self._values[name] = deepcopy(value)  # an engine goes on correcting its times
        temporary = self._path.with_suffix(".part")
        temporary.write_text(json.dumps(self._values, ensure_ascii=False))
        temporary.replace(self._path)
        print(f"{name}: {value}", flush=True)

    @contextmanager
    def attempt(self, name: str) -> Iterator[None]:
        """Records an error under ``name`` instead of ending the step."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - the other measurements count
            self.add(name, {"error": f"{type(error).__name__}: {error}"[:4000]})


def start(description: str | None) -> tuple[Options, Results]:
    """Reads the options that the runner passes."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("output", type=Path)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--photos", type=Path)
    given = parser.parse_args()
    logging.basicConfig(
        level=logging.INFO, format="%(name)s: %(message)s"
    )  # the engine says which paths it uses, and why
    deadline = time.monotonic() + given.seconds
    return Options(given.output, given.device, given.small, deadline, given.photos), Results(given.output)


def build(name: str) -> tuple[LoadedModel, nn.Module]:
    """The same random weights for this project and for torchvision; blocks matter as much as in a trained network."""
    torch.manual_seed(0)
    if name == SMALL:
        blocks = [convnext.CNBlockConfig(16, 32, 1), convnext.CNBlockConfig(32, None, 1)]
        network: nn.Module = convnext.ConvNeXt(blocks, num_classes=50)
    else:
        network = convnext.__dict__[f"convnext_{name}"](weights=None)
    with torch.no_grad():
        for key, parameter in network.named_parameters():
            if key.endswith("layer_scale"):
                parameter.uniform_(0.2, 0.8)
    return load_torchvision(network)


def batch_of(size: int) -> Batch:
    """Pixels of photos, repeated."""
    photos = [np.asarray(Image.open(path).convert("RGB").resize((224, 224))) for path in sorted(SAMPLES.glob("*.jpg"))]
    return np.stack([np.roll(photos[i % len(photos)], 13 * i, axis=1) for i in range(size)])


def photos_of(count: int, width: int = 500, height: int = 375, size_bytes: int | None = None) -> list[bytes]:
    """Different JPEGs, cut out of the web page's samples."""
    sources = [Image.open(path).convert("RGB") for path in sorted(SAMPLES.glob("*.jpg"))]
    return make_photos(count, width, height, size_bytes, sources=sources)
