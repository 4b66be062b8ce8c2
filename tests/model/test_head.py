"""Activation maps add up to the logits, and embeddings are the features of timm, transformers and torchvision."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from safetensors.torch import save_file
from timm.models.convnext import ConvNeXt as TimmConvNeXt
from torch import Tensor, nn
from torchvision.models.convnext import CNBlockConfig
from torchvision.models.convnext import ConvNeXt as TorchvisionConvNeXt
from transformers import ConvNextConfig, ConvNextForImageClassification

from model import LoadedModel, load_model
from model.convnext import ConvNeXtConfig, Head
from model.head import HeadWeights
from model.inference.engine import InferenceEngine, RuntimeName
from tests.model.conftest import randomize

Array = npt.NDArray[np.float32]
RUNTIMES: tuple[RuntimeName, ...] = ("torch", "openvino")
SIZE = 96  # pixels; the feature map is 3×3
ARGUMENTS: dict[str, dict[str, Any]] = {  # Any: arguments of different types
    "V1": {},
    "V2": {"use_grn": True, "ls_init_value": None},
    "norm before pool": {"head_norm_first": True},
}


def images() -> npt.NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (2, SIZE, SIZE, 3), np.uint8)


def timm_network(kind: str) -> TimmConvNeXt:
    return randomize(TimmConvNeXt(depths=(1, 2, 1, 1), dims=(16, 24, 40, 64), num_classes=7, **ARGUMENTS[kind]))


def normalized(model: LoadedModel) -> Tensor:
    """What the reference libraries take instead of pixels."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (model.transform.mean, model.transform.std))
    return (torch.from_numpy(images()).permute(0, 3, 1, 2) / 255 - mean) / std


def load(reference: nn.Module, folder: Path) -> LoadedModel:
    save_file(reference.state_dict(), folder / "network.safetensors")
    model = load_model(folder / "network.safetensors")
    return replace(model, transform=replace(model.transform, resize_size=SIZE, crop_size=SIZE))


def run(model: LoadedModel, runtime: RuntimeName) -> tuple[HeadWeights, Array]:
    """The weights of the head, and the feature maps ``(2, K, 3, 3)``."""
    engine = InferenceEngine(model, device="cpu", runtime=runtime, precision="float32")
    return engine.head, engine.predict_with_features(list(images()))[1]


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("kind", ARGUMENTS)
def test_the_mean_of_a_map_and_its_bias_are_the_logit_of_timm(tmp_path: Path, kind: str, runtime: RuntimeName) -> None:
    reference = timm_network(kind)
    model = load(reference, tmp_path)
    with torch.inference_mode():
        logits = reference(normalized(model)).numpy()
    assert logits.std() > 0.1
    head, features = run(model, runtime)
    for feature_map, row in zip(features, logits, strict=True):
        for class_id, logit in enumerate(row):
            found = head.activation_map(feature_map, class_id)
            assert found.values.shape == (3, 3)
            assert found.values.std() > 0.01
            assert found.values.mean() + found.bias == pytest.approx(logit, abs=1e-4)


@pytest.mark.parametrize("norm_before_pool", [False, True])
def test_each_position_of_a_map_is_what_the_head_computes_there(norm_before_pool: bool) -> None:
    config = ConvNeXtConfig((1,), (16,), num_classes=3, norm_before_pool=norm_before_pool, head_norm_eps=0.1)
    head = randomize(Head(16, config))
    features = torch.randn(16, 4, 5, generator=torch.Generator().manual_seed(0))
    centered = features - features.mean(0)
    pooled = features if norm_before_pool else features.mean((1, 2), keepdim=True)
    deviation = (pooled.var(0, correction=0) + 0.1).sqrt()
    scaled = centered / deviation * head.norm.weight.view(-1, 1, 1)
    expected = torch.einsum("k,khw->hw", head.fc.weight[1], scaled).detach().numpy()
    found = HeadWeights.of(head).activation_map(features.numpy(), 1)
    np.testing.assert_allclose(found.values, expected, atol=1e-5)
    logit = head(features[None])[0, 1].item()
    assert found.values.mean() + found.bias == pytest.approx(logit, abs=1e-5)


def unit(vectors: Tensor) -> Array:
    """Vectors ``(N, K)`` with an L2 norm of 1."""
    array: Array = nn.functional.normalize(vectors.flatten(1)).numpy()
    return array


def check_embeddings(model: LoadedModel, pooled: Callable[[Tensor], Tensor]) -> None:
    """Compares both runtimes with ``pooled``, a reference from normalized images to feature vectors."""
    with torch.inference_mode():
        expected = unit(pooled(normalized(model)))
    assert expected.std() > 0.01
    for runtime in RUNTIMES:
        head, features = run(model, runtime)
        found = np.stack([head.embed(feature_map) for feature_map in features])
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("kind", ARGUMENTS)
def test_embeddings_equal_those_of_timm(tmp_path: Path, kind: str) -> None:
    reference = timm_network(kind)
    model = load(reference, tmp_path)
    check_embeddings(model, lambda x: reference.forward_head(reference.forward_features(x), pre_logits=True))


def test_embeddings_equal_those_of_transformers(tmp_path: Path) -> None:
    config = ConvNextConfig(depths=[1, 2, 1, 1], hidden_sizes=[16, 24, 40, 64])
    reference = randomize(ConvNextForImageClassification(config))
    model = load(reference, tmp_path)
    check_embeddings(model, lambda x: reference.convnext(x).pooler_output)


def test_embeddings_equal_those_of_torchvision(tmp_path: Path) -> None:
    reference = randomize(TorchvisionConvNeXt([CNBlockConfig(16, 32, 1), CNBlockConfig(32, None, 2)], num_classes=5))
    norm = next(reference.classifier.children())
    model = load(reference, tmp_path)
    check_embeddings(model, lambda x: norm(reference.avgpool(reference.features(x))))


def test_features_without_variance_have_an_embedding() -> None:
    zeros = np.zeros(4, np.float32)
    head = HeadWeights(zeros, zeros, 1e-6, np.ones((3, 4), np.float32), np.zeros(3, np.float32))
    assert head.embed(np.ones((4, 2, 2), np.float32)).tolist() == [0, 0, 0, 0]
