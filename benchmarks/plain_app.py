"""The yardstick: the forty lines of FastAPI that people write themselves. ``uvicorn benchmarks.plain_app:app``."""

import io
import os

import torch
from fastapi import FastAPI, UploadFile
from PIL import Image
from torchvision.transforms import v2

from model import load_model

loaded = load_model(os.environ["PLAIN_MODEL"])
network = loaded.network
transform = v2.Compose(
    [
        v2.Resize(loaded.transform.resize_size, antialias=True),
        v2.CenterCrop(loaded.transform.crop_size),
        v2.PILToTensor(),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize(loaded.transform.mean, loaded.transform.std),
    ]
)
torch.set_num_threads(int(os.environ.get("PLAIN_THREADS", "1")))
app = FastAPI()


@app.post("/predict")
def predict(file: UploadFile, top_k: int = 5) -> list[dict[str, object]]:
    """One photo, one forward pass."""
    image = Image.open(io.BytesIO(file.file.read())).convert("RGB")
    with torch.inference_mode():
        probabilities = network(transform(image).unsqueeze(0)).softmax(1)[0]
    values, classes = probabilities.topk(top_k)
    return [
        {"label": loaded.labels[index], "probability": value}
        for index, value in zip(classes.tolist(), values.tolist(), strict=True)
    ]
