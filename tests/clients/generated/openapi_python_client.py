"""Uses the client of openapi-python-client, and prints what it returns as JSON: URL PHOTO.

Runs in .venv-openapi, with the generated package in PYTHONPATH.
"""

import json
import sys
from io import BytesIO
from pathlib import Path

from openapi_client import Client
from openapi_client.api.health import health
from openapi_client.api.model import model, model_labels
from openapi_client.api.predict import embed, explain, predict, predict_batch
from openapi_client.models import (
    EmbedFilesBody,
    ExplainFilesBody,
    PredictBatchBody,
    PredictFilesBody,
    PredictResponse,
    Problem,
)
from openapi_client.types import File


def main(url: str, path: Path) -> None:
    client = Client(base_url=url, timeout=60, raise_on_unexpected_status=True)

    def file(content: bytes) -> File:
        return File(payload=BytesIO(content), file_name="photo.jpg", mime_type="image/jpeg")

    photo = path.read_bytes()
    predicted = predict.sync(client=client, body=PredictFilesBody(file=file(photo)), top_k=3)
    assert isinstance(predicted, PredictResponse)
    batch = predict_batch.sync(client=client, body=PredictBatchBody(files=[file(photo), file(b"words")]), top_k=1)
    problem = predict.sync(client=client, body=PredictFilesBody(file=file(b"words")))
    empty = predict.sync(client=client, body=PredictFilesBody(file=file(b"")))
    assert isinstance(problem, Problem)
    assert isinstance(empty, Problem)
    result = {
        "model": model.sync(client=client).name,
        "labels": len(model_labels.sync(client=client).labels),
        "status": health.sync(client=client).status,
        "classes": [item.class_id for item in predicted.predictions],
        "batch": [item.class_id for item in batch.results[0].predictions],
        "explained": explain.sync(client=client, body=ExplainFilesBody(file=file(photo))).class_id,
        "dimensions": embed.sync(client=client, body=EmbedFilesBody(file=file(photo))).dimensions,
        "problems": [problem.type_, batch.results[1].problem.type_, empty.type_],
    }
    print(json.dumps(result))  # noqa: T201 - read by the test


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
