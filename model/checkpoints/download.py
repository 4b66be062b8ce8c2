"""Fetches a registered file into the cache: through huggingface_hub from the Hub, through torch.hub from elsewhere."""

import hashlib
import logging
import os
import re
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from urllib.error import URLError
from urllib.request import Request, urlopen

import torch
from filelock import FileLock, Timeout

from model.errors import DownloadError

logger = logging.getLogger(__name__)

_HUB = re.compile(r"https://huggingface\.co/(?P<repo_id>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<filename>.+)")


def default_cache_dir() -> Path:
    """Returns ``$XDG_CACHE_HOME/convnext-serve``, by default ``~/.cache/convnext-serve``."""
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "convnext-serve"


def sha256_of(path: Path) -> str:
    """Returns the SHA-256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_file(path: Path) -> Path:
    """Returns the path of the file, in the format of sha256sum, that records the digest of a fetched file."""
    return Path(f"{path}.sha256")


def fetch(
    url: str,
    destination: Path,
    *,
    sha256: str | None = None,
    timeout_s: float = 30.0,
    lock_timeout_s: float = 3600.0,
) -> str:
    """Fetches ``url`` to ``destination`` unless that exists, and returns its SHA-256.

    ``sha256`` is the expected digest or a prefix of it. The actual digest is recorded in ``digest_file(destination)``.
    A file of the Hub keeps its name. The server may be silent for ``timeout_s``. Only one process fetches a file, while
    others wait for up to ``lock_timeout_s``. Raises ``DownloadError``.
    """
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{destination}.lock", timeout=lock_timeout_s):
            if not destination.exists():
                logger.info("fetching %s", url)
                _receive(url, destination, sha256, timeout_s)
            return _record_digest(destination)
    except Timeout as error:
        reason = f"another process has locked {error.lock_file} for more than {lock_timeout_s:g} s"
        raise _failure(url, destination, reason) from error
    except (HTTPException, URLError, TimeoutError, ConnectionError, ValueError, RuntimeError) as error:
        raise _failure(url, destination, str(error) or type(error).__name__) from error
    except OSError as error:
        cause = error.strerror or error
        reason = f"the cache folder {destination.parent} cannot be written: {cause}; set CONVNEXT_CACHE_DIR to another"
        raise _failure(url, destination, reason) from error


def _receive(url: str, destination: Path, sha256: str | None, timeout_s: float) -> None:
    """Raises what the libraries raise, and ``ValueError`` if the file is not the expected one."""
    if found := _HUB.fullmatch(url):
        _receive_from_hub(destination.parent, **found.groupdict())
        if sha256 is not None and not (actual := sha256_of(destination)).startswith(sha256):
            destination.unlink()
            raise ValueError(f"its SHA-256 is {actual}, expected {sha256}")
        return
    with _socket_timeout(timeout_s):
        size = None if sha256 is not None else _size_of(url)  # torch.hub accepts a file that ends early
        torch.hub.download_url_to_file(url, str(destination), sha256, progress=sys.stderr.isatty())
    if size is not None and (received := destination.stat().st_size) != size:
        destination.unlink()
        raise ValueError(f"received {received} of {size} bytes")


def _receive_from_hub(folder: Path, *, repo_id: str, revision: str, filename: str) -> None:
    from huggingface_hub import hf_hub_download  # takes a moment, and most models need no Hub
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        hf_hub_download(repo_id, filename, revision=revision, local_dir=folder)
    except (HfHubHTTPError, LocalEntryNotFoundError) as error:
        raise URLError(str(error).strip().partition("\n")[0]) from error


def _size_of(url: str) -> int | None:
    with urlopen(Request(url, method="HEAD")) as response:  # noqa: S310 - a registered URL
        length = response.headers.get("Content-Length", "")
    return int(length) if length.isdecimal() else None


@contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    """The time limit of ``urlopen``, for which torch.hub sets none."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _record_digest(path: Path) -> str:
    digest = sha256_of(path)
    digest_file(path).write_text(f"{digest}  {path.name}\n")
    return digest


def _failure(url: str, destination: Path, reason: str) -> DownloadError:
    return DownloadError(
        f"Could not fetch {url}: {reason}. To provide the file manually, save it as {destination}, "
        "or use its path as the model name."
    )
