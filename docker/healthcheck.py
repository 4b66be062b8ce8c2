"""Exits with 0 if the service in this container is ready, else with 1. The image has no curl."""

import http.client
import os
import sys

from app.platforms import platform_defaults

TIMEOUT_S = 4.0
ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - not bound here, only looked up


def main(timeout_s: float = TIMEOUT_S) -> int:
    host = os.environ.get("CONVNEXT_HOST") or "127.0.0.1"  # an empty variable counts as not set, as in the service
    port = int(os.environ.get("CONVNEXT_PORT") or platform_defaults(os.environ).get("port", 8000))
    connection = http.client.HTTPConnection(ANY_ADDRESS.get(host, host), port, timeout=timeout_s)
    try:
        connection.request("GET", "/health")
        response = connection.getresponse()
        print(response.status, response.read(1000).decode())  # noqa: T201 - shown by docker inspect
    except (OSError, http.client.HTTPException) as error:
        print(f"{type(error).__name__}: {error}")  # noqa: T201
        return 1
    return 0 if response.status == http.HTTPStatus.OK else 1


if __name__ == "__main__":
    sys.exit(main())
