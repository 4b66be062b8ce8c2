"""The network and preprocessing that all baseline servers share: torchvision and Pillow, used as documented."""

import io
from pathlib import Path

import torch
from PIL import Image
from torchvision.models.convnext import CNBlockConfig, ConvNeXt
from torchvision.transforms import v2

Reply = dict[str, list[dict[str, float]]]

# Depths and widths of the four stages, and the size to resize to
NETWORKS = {
    "minimal": ((1, 1, 1, 1), (8, 16, 32, 64), 256),
    "convnext_tiny": ((3, 3, 9, 3), (96, 192, 384, 768), 236),
}
TOP_K = 5


def build_network(name: str) -> ConvNeXt:
    """torchvision's ConvNeXt with random weights whose blocks all contribute to the logits."""
    depths, widths, _ = NETWORKS[name]
    stages = zip(widths, (*widths[1:], None), depths, strict=True)
    torch.manual_seed(0)
    return ConvNeXt([CNBlockConfig(*stage) for stage in stages], layer_scale=1.0).eval()


class Classifier:
    """Classifies encoded images with the network whose state dict is in the file ``NAME.pth``."""

    def __init__(self, weights: Path) -> None:
        torch.set_num_threads(1)  # there is one worker process per core
        self._network = build_network(weights.stem)
        self._network.load_state_dict(torch.load(weights, weights_only=True))
        resize_size = NETWORKS[weights.stem][2]
        self._transform = v2.Compose(
            [
                v2.Resize(resize_size, antialias=True),
                v2.CenterCrop(224),
                v2.PILToTensor(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
            ]
        )

    def classify(self, images: list[bytes]) -> list[Reply]:
        """The most probable classes of each image, from one forward pass."""
        pixels = torch.stack([self._transform(Image.open(io.BytesIO(image)).convert("RGB")) for image in images])
        with torch.inference_mode():
            probabilities, classes = self._network(pixels).softmax(1).topk(TOP_K)  # (N, TOP_K)
        return [
            {"predictions": [{"class_id": c, "probability": p} for c, p in zip(*row, strict=True)]}
            for row in zip(classes.tolist(), probabilities.tolist(), strict=True)
        ]
