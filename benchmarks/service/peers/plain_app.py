"""The baseline: the few lines of FastAPI that people write themselves, without batching."""

import os
from pathlib import Path

from fastapi import FastAPI, UploadFile

from benchmarks.service.peers.classifier import Classifier, Reply

app = FastAPI()
classifier = Classifier(Path(os.environ["WEIGHTS"]))


@app.post("/predict")
def predict(file: UploadFile) -> Reply:
    """Classifies one image in a thread of FastAPI's pool."""
    return classifier.classify([file.file.read()])[0]
