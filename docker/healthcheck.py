"""Exits with 0 if the service in this container is ready, else with 1. The image has no curl."""

import http.client
import os
import sys

TIMEOUT_S = 4.0
SAGEMAKER_MODEL = "/opt/ml/model"
ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - not bound here, only looked up


def main() -> int:
    host = os.environ.get("CONVNEXT_HOST") or "127.0.0.1"  # an empty variable counts as not set, as in the service
    port = int(os.environ.get("CONVNEXT_PORT") or _platform_port() or "8000")
    connection = http.client.HTTPConnection(ANY_ADDRESS.get(host, host), port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", "/health")
        response = connection.getresponse()
        print(response.status, response.read(1000).decode())  # noqa: T201 - shown by docker inspect
    except (OSError, http.client.HTTPException) as error:
        print(f"{type(error).__name__}: {error}")  # noqa: T201
        return 1
    return 0 if response.status == http.HTTPStatus.OK else 1


def _platform_port() -> str | None:
    """The default port on Vertex AI and SageMaker; the same as in app/platforms.py, which is slow to import."""
    if "AIP_HTTP_PORT" in os.environ:
        return os.environ["AIP_HTTP_PORT"]
    return os.environ.get("SAGEMAKER_BIND_TO_PORT", "8080") if os.path.isdir(SAGEMAKER_MODEL) else None


if __name__ == "__main__":
    sys.exit(main())
