"""ApiKeys: the API keys that are accepted, from the settings and from a file that may change."""

import codecs
import hmac
import logging
import os
from collections.abc import Iterable
from pathlib import Path

logger = logging.getLogger(__name__)

_Version = tuple[int, int, int]  # modification time in ns, size in bytes, inode


class NoKeys(OSError):
    """The file of API keys has no key in it, or is not a text file."""


class ApiKeys:
    """The keys in ``keys`` and those in the file ``path``, which is read again when it changes.

    The file has one key per line, in UTF-8 or, with a byte order mark, UTF-16; empty lines and lines that begin with #
    are skipped. While it is missing or unreadable, the keys that were last read remain valid. Raises ``OSError`` if it
    cannot be read at first, and ``NoKeys`` if it has no key.
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
        lines = [line.strip() for line in _read_utf8(path).splitlines()]
        self._file_keys = tuple(line for line in lines if line and not line.startswith(b"#"))
        if self._version is not None:
            logger.info("%d API keys read from %s", len(self._file_keys), path)
        self._version = version


def _read_utf8(path: Path) -> bytes:
    """A text file as UTF-8 without a byte order mark, as clients send its keys. Raises ``OSError``."""
    content = path.read_bytes()
    try:
        if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            content = content.decode("utf-16").encode()
    except UnicodeDecodeError as error:
        raise NoKeys(f"{path} is not valid UTF-16: {error}") from error
    if b"\0" in content:
        raise NoKeys(f"{path} is not a text file in UTF-8, or in UTF-16 with a byte order mark")
    return content.removeprefix(codecs.BOM_UTF8)
