"""A server in a process of its own, with the tiny model."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image

from tests.app.http.server_process import running
from tests.constants import WAIT_S


@pytest.fixture(scope="session")
def service_url(tiny_path: Path) -> Iterator[str]:
    """The address of a server, ``http://127.0.0.1:PORT``."""
    with running_server("--model", str(tiny_path)) as url:
        yield url


@pytest.fixture(scope="session")
def protocols_url() -> Iterator[str]:
    """The address of a server with the embedded model and the protocols of other servers."""
    with running_server("--protocols", "open_inference,kserve") as url:
        yield url


@contextmanager
def running_server(*options: str) -> Iterator[str]:
    """Serves in a process of its own, and returns the address."""
    with running("-m", "app", "serve", "--runtime", "torch", "--port", "0", *options) as process:
        yield process.wait_for(r"listening on (http://\S+)")[1]
        process.popen.send_signal(signal.SIGTERM)
        assert process.popen.wait(WAIT_S) == 0


@pytest.fixture(scope="session")
def photo_path(tmp_path_factory: pytest.TempPathFactory, make_photo: Callable[..., Image.Image]) -> Path:
    """A JPEG of some kilobytes, with a name that is not ASCII."""
    path = tmp_path_factory.mktemp("photos") / "Größe 1.jpg"
    make_photo(320, 240).save(path, quality=90)
    return path


@pytest.fixture(scope="session")
def large_photo_path(tmp_path_factory: pytest.TempPathFactory, make_photo: Callable[..., Image.Image]) -> Path:
    """A JPEG of more than a megabyte, from which on curl waits for 100 Continue."""
    path = tmp_path_factory.mktemp("photos") / "large.jpg"
    make_photo(2000, 1500).save(path, quality=95)
    assert path.stat().st_size > 2**20
    return path
