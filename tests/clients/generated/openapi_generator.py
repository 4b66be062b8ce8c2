"""Uses the Python client of openapi-generator, and prints what it returns as JSON: URL PHOTO.

Runs in .venv-openapi, with the generated package in PYTHONPATH.
"""

import json
import sys
from pathlib import Path

from openapi_client import ApiClient, ApiException, Configuration, HealthApi, ModelApi, PredictApi
from openapi_client.models import Problem


def main(url: str, path: Path) -> None:
    client = ApiClient(Configuration(host=url))
    api, photo = PredictApi(client), path.read_bytes()
    by_content, by_path = api.predict(file=photo, top_k=3), api.predict(file=str(path), top_k=3)
    assert by_content == by_path
    batch = api.predict_batch(files=[photo, b"words"], top_k=1)
    assert batch.results[1].problem is not None
    try:
        api.predict(file=b"words")
    except ApiException as error:
        problem = error.data
    assert isinstance(problem, Problem)
    try:
        api.predict(file=b"")
    except ApiException as error:
        empty = error.data
    result = {
        "model": ModelApi(client).model().name,
        "labels": len(ModelApi(client).model_labels().labels),
        "status": HealthApi(client).health().status,
        "classes": [item.class_id for item in by_content.predictions],
        "batch": [item.class_id for item in batch.results[0].predictions or []],
        "explained": api.explain(file=("photo.jpg", photo)).class_id,
        "dimensions": api.embed(file=photo).dimensions,
        "problems": [problem.type, batch.results[1].problem.type, empty.type],
    }
    print(json.dumps(result))  # noqa: T201 - read by the test


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
