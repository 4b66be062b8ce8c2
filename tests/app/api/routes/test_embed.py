"""POST /embed: forms of the response, and its relation to the network."""

import base64
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch

from app.main import create_app
from app.settings import Settings
from model.checkpoints.load import load_model
from model.images.transform import preprocess
from model.inference.engine import InferenceEngine
from tests.app.types import CheckProblem, Connect, Grey
from tests.conftest import Encode, MakePhoto

pytestmark = pytest.mark.anyio


async def test_both_encodings_hold_the_same_unit_vector(connect: Connect, grey: Grey) -> None:
    async with connect() as client:
        plain = (await client.post("/embed", files={"file": grey(9)})).json()
        packed = (await client.post("/embed?encoding=base64", files={"file": grey(9)})).json()
    vector = np.frombuffer(base64.b64decode(packed["embedding"]), "<f4")
    assert plain["embedding"] == vector.tolist()
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-6)
    assert plain["dimensions"] == packed["dimensions"] == len(vector) == 4
    assert (plain["encoding"], packed["encoding"], plain["model"]) == ("float", "base64", "fake")


async def test_an_unknown_encoding_is_a_problem(connect: Connect, grey: Grey, problem: CheckProblem) -> None:
    async with connect() as client:
        response = await client.post("/embed?encoding=hex", files={"file": grey(9)})
    assert "base64" in problem(response, 422, "invalid-parameter")


async def test_the_embedding_equals_that_of_timm(
    connect: Connect, make_photo: MakePhoto, encode: Encode, tmp_path: Path
) -> None:
    network: Any = timm.create_model("convnext_atto", num_classes=10).eval()  # Any: its methods are typed as tensors
    torch.save(network.state_dict(), tmp_path / "atto.pth")
    model = load_model(tmp_path / "atto.pth")
    photo = encode(make_photo())
    pixels = torch.from_numpy(preprocess(photo, model.transform)).permute(2, 0, 1)[None] / 255
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (model.transform.mean, model.transform.std))
    with torch.inference_mode():
        features = network.forward_head(network.forward_features((pixels - mean) / std), pre_logits=True)[0]
    app = create_app(Settings(), InferenceEngine(model, device="cpu", runtime="torch", precision="float32"))
    async with connect(app) as client:
        response = await client.post("/embed", files={"file": photo})
    assert response.json()["embedding"] == pytest.approx((features / features.norm()).tolist(), abs=1e-4)
