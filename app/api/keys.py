"""ApiKeys: the API keys that are accepted, from the settings and from a file that may change."""

import hmac
import logging
import os
from collections.abc import Iterable
from pathlib import Path

logger = logging.getLogger(__name__)

_Version = tuple[int, int, int]  # modification time in ns, size in bytes, inode


class NoKeys(OSError):
    """The file of API keys has no key in it."""


class ApiKeys:
    """The keys in ``keys`` and those in the file ``path``, which is read again when it changes.

    The file has one key per line; empty lines and lines that begin with # are skipped. While it is missing or
    unreadable, the keys that were last read remain valid. Raises ``OSError`` if it cannot be read at first, and
    ``NoKeys`` if it has no key.
    """

    def __init__(self, keys: Iterable[str] = (), path: Path | None = None) -> None:
        self._keys = tuple(key.encode() for key in keys)
        self._path = path
        self._file_keys: tuple[bytes, ...] = ()
        self._version: _Version | None = None
        self._readable = True
        if path is not None:
            self._read(path)
            if not self._file_keys:
                raise NoKeys(f"{path} has no API key in it")

    @property
    def required(self) -> bool:
        """Whether requests need a key."""
        return self._path is not None or bool(self._keys)

    def accept(self, *sent: bytes) -> bool:
        """Whether any value in ``sent`` is a key. Compares with every key, each in constant time."""
        if self._path is not None:
            self._refresh(self._path)
        keys = (*self._keys, *self._file_keys)
        return sum(hmac.compare_digest(value, key) for value in sent for key in keys) > 0

    def _refresh(self, path: Path) -> None:
        try:
            self._read(path)
        except OSError as error:
            if self._readable:
                logger.warning("cannot read the API keys file, keeping the previous keys: %s", error)
            self._readable = False
        else:
            self._readable = True

    def _read(self, path: Path) -> None:
        status = os.stat(path)
        version = status.st_mtime_ns, status.st_size, status.st_ino
        if version == self._version:
            return
        lines = [line.strip() for line in path.read_bytes().splitlines()]
        self._file_keys = tuple(line for line in lines if line and not line.startswith(b"#"))
        if self._version is not None:
            logger.info("%d API keys read from %s", len(self._file_keys), path)
        self._version = version
