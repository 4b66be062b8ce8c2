"""A real server with the embedded model, started as a process."""

from collections.abc import Iterator

import pytest

from tests.app.http.server_process import running


@pytest.fixture(scope="session")
def server_url() -> Iterator[str]:
    """The URL of the server, which ends with the tests."""
    with running("-m", "app", "serve", "--port", "0") as process:
        yield process.wait_for(r"listening on (http://\S+)")[1]
