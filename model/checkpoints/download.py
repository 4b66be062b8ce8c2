"""Downloads a file over HTTP into the cache: resumable, verified, and atomic."""

import hashlib
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import httpx
from filelock import BaseFileLock, FileLock, Timeout
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from model.errors import DownloadError

logger = logging.getLogger(__name__)

Report = Callable[[int, int | None], None]  # received bytes, total bytes if the server sends them
_LOG_FRACTION = 0.1  # of the file, between log lines


class _Interrupted(Exception):
    """The transfer failed and can be retried."""


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
    attempts: int = 5,
    timeout_s: float = 30.0,
    pause_s: float = 1.0,
    lock_timeout_s: float = 3600.0,
) -> str:
    """Fetches ``url`` to ``destination`` unless that exists, and returns its SHA-256.

    ``sha256`` is the expected digest or a prefix of it, by default the digest that a Hugging Face server sends. The
    actual digest is recorded in ``digest_file(destination)``. An interrupted transfer is resumed, up to ``attempts``
    times with a pause that starts at ``pause_s`` and doubles, and by the next call. Only one process fetches a file;
    others wait for it for up to ``lock_timeout_s``. Raises ``DownloadError``.
    """
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        with _acquire(FileLock(f"{destination}.lock"), lock_timeout_s):
            if destination.exists():
                return sha256_of(destination)
            return _Transfer(url, destination, sha256, timeout_s).run(attempts, pause_s)
    except Timeout as error:
        reason = f"another process has locked {error.lock_file} for more than {lock_timeout_s:g} s"
        raise _failure(url, destination, reason) from error
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise _failure(url, destination, str(error)) from error
    except OSError as error:
        reason = f"the cache folder {destination.parent} cannot be written: {error}; set CONVNEXT_CACHE_DIR to another"
        raise _failure(url, destination, reason) from error


def _acquire(lock: BaseFileLock, timeout_s: float) -> AbstractContextManager[object]:
    try:
        return lock.acquire(timeout=0)
    except Timeout:
        logger.info("waiting for another process to release %s", lock.lock_file)
        return lock.acquire(timeout=timeout_s)


def _failure(url: str, destination: Path, reason: str) -> DownloadError:
    return DownloadError(
        f"Could not fetch {url}: {reason}. To provide the file manually, save it as {destination}, "
        "or use its path as the model name."
    )


class _Transfer:
    """One download: ``FILE.part`` contains the bytes received so far, ``FILE.part.etag`` the ETag of their version."""

    def __init__(self, url: str, destination: Path, sha256: str | None, timeout_s: float) -> None:
        self.url, self.destination, self.sha256 = url, destination, sha256
        self.part, self.etag = Path(f"{destination}.part"), Path(f"{destination}.part.etag")
        self.resumed = False
        self.client = httpx.Client(follow_redirects=True, timeout=timeout_s, headers={"Accept-Encoding": "identity"})

    def run(self, attempts: int, pause_s: float) -> str:
        cause: Exception | None = None
        with self.client, _reporting(self.destination.name) as report:
            for attempt in range(attempts):
                try:
                    self._receive(report)
                    return self._put_in_place()
                except (_Interrupted, httpx.TransportError) as error:
                    cause = error
                    if attempt + 1 < attempts:
                        logger.warning("fetching %s failed (%s), retrying", self.url, _reason(error))
                        time.sleep(pause_s * 2**attempt)
        reason = f"{attempts} attempts failed; last error: {_reason(cause)}"
        raise _failure(self.url, self.destination, reason) from cause

    def _receive(self, report: Report) -> None:
        start = self._resumable_bytes()
        headers = {"Range": f"bytes={start}-"} if start else {}
        if start and self.etag.exists():
            headers["If-Range"] = self.etag.read_text()
        with self.client.stream("GET", self.url, headers=headers) as response:
            start = self._accept(response, start)
            total = _total_bytes(response, start)
            with self.part.open("ab" if start else "wb") as file:
                for chunk in response.iter_raw():
                    file.write(chunk)
                    report(file.tell(), total)
                received = file.tell()
        if total is not None and received != total:
            raise _Interrupted(f"received {received} of {total} bytes")

    def _resumable_bytes(self) -> int:
        """Returns the size of the partial file, or 0 if a change of the file on the server could not be detected."""
        if not self.part.exists() or (self.sha256 is None and not self.etag.exists()):
            return 0
        return self.part.stat().st_size

    def _accept(self, response: httpx.Response, start: int) -> int:
        """Checks the status, saves the ETag and returns the position at which the body starts."""
        if response.status_code == 416:
            self._discard()
            raise _Interrupted(f"position {start} is past the end of the file")
        if response.status_code >= 500 or response.status_code == 429:
            raise _Interrupted(f"HTTP {response.status_code}")
        if response.status_code not in (200, 206):
            raise _failure(self.url, self.destination, f"HTTP {response.status_code} {response.reason_phrase}")
        if response.status_code == 206 and not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
            self._discard()
            raise _Interrupted("the server sent a different range than requested")
        etag = response.headers.get("ETag", "")
        if etag and not etag.startswith("W/"):
            self.etag.write_text(etag)
        else:
            self.etag.unlink(missing_ok=True)
        self.sha256 = self.sha256 or _linked_digest(response)
        self.resumed = response.status_code == 206
        return start if self.resumed else 0

    def _put_in_place(self) -> str:
        actual = sha256_of(self.part)
        if self.sha256 is not None and not actual.startswith(self.sha256):
            self._discard()
            if self.resumed:
                raise _Interrupted("the partial file is corrupt")
            raise _failure(self.url, self.destination, f"its SHA-256 is {actual}, expected {self.sha256}")
        digest_file(self.destination).write_text(f"{actual}  {self.destination.name}\n")
        os.replace(self.part, self.destination)  # last, so that a file in the cache always has its digest recorded
        self.etag.unlink(missing_ok=True)
        return actual

    def _discard(self) -> None:
        self.part.unlink(missing_ok=True)
        self.etag.unlink(missing_ok=True)


def _reason(error: Exception | None) -> str:
    return str(error) or type(error).__name__


def _total_bytes(response: httpx.Response, start: int) -> int | None:
    length = response.headers.get("Content-Length", "")
    return start + int(length) if length.isdecimal() else None


def _linked_digest(response: httpx.Response) -> str | None:
    """Returns the SHA-256 in Hugging Face's response headers, which precede the redirect to the file."""
    for step in (*response.history, response):
        digest = str(step.headers.get("X-Linked-Etag", "")).strip('"')
        if len(digest) == 64 and set(digest) <= set("0123456789abcdef"):
            return digest
    return None


@contextmanager
def _reporting(name: str) -> Iterator[Report]:
    """Shows a progress bar on a terminal, otherwise logs every tenth of the file."""
    if not sys.stderr.isatty():
        logger.info("fetching %s", name)
        yield _logged(name)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as progress:
        task = progress.add_task(name, total=None)
        yield lambda received, total: progress.update(task, completed=received, total=total)


def _logged(name: str) -> Report:
    reported = 0.0

    def report(received: int, total: int | None) -> None:
        nonlocal reported
        if total and received / total >= reported + _LOG_FRACTION:
            reported = received / total
            logger.info("fetching %s: %.0f of %.0f MB", name, received / 1e6, total / 1e6)

    return report
