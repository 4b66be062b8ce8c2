"""Exits with 0 where the service in this container answers that it is ready; the images have no curl."""

import http.client
import os
import sys

TIMEOUT_S = 4.0
ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - where to reach what listens everywhere


def main() -> int:
    host = os.environ.get("CONVNEXT_HOST", "127.0.0.1")
    port = int(os.environ.get("CONVNEXT_PORT", "8000"))
    connection = http.client.HTTPConnection(ANY_ADDRESS.get(host, host), port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", "/health")
        response = connection.getresponse()
        print(response.status, response.read(1000).decode())  # noqa: T201 - kept by the engine as the check's log
    except (OSError, http.client.HTTPException) as error:
        print(f"{type(error).__name__}: {error}")  # noqa: T201
        return 1
    return 0 if response.status == http.HTTPStatus.OK else 1


if __name__ == "__main__":
    sys.exit(main())
