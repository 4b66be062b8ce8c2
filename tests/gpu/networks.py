"""A small network with random weights whose blocks matter, and photos."""

from pathlib import Path

import numpy as np
import torch

from model import Transform
from model.checkpoints.native import save_checkpoint
from model.convnext import ConvNeXt, ConvNeXtConfig
from model.images.transform import Pixels

WIDTHS = (40, 80)  # of all networks, so that kernels that one test has compiled are found by others


def save_network(path: Path) -> None:
    """Writes a checkpoint with 100 classes, whose logits differ between images."""
    config = ConvNeXtConfig((2, 3), WIDTHS, num_classes=100)
    network = ConvNeXt(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("gamma"):
                parameter.uniform_(0.2, 0.8, generator=generator)
        network.head.fc.weight.normal_(generator=generator)
    labels = tuple(map(str, range(100)))
    save_checkpoint(path, network.state_dict(), config, Transform(236), labels, name="small", licence="CC0-1.0")


def smooth_images(count: int) -> list[Pixels]:
    """Random images ``(224, 224, 3)``, smooth like photos."""
    random = np.random.default_rng(0)
    coarse = torch.from_numpy(random.uniform(0, 255, (count, 3, 9, 9)))
    fine = torch.nn.functional.interpolate(coarse, size=(224, 224), mode="bicubic").clamp(0, 255)
    return list(fine.permute(0, 2, 3, 1).to(torch.uint8).numpy())
