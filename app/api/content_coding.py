"""decompressed: the content of a body with a Content-Encoding, bounded in memory and in time per step."""

import asyncio
import zlib
from collections.abc import AsyncIterator, Iterator, Sequence

from app.api.problems import InvalidRequest, UnsupportedEncoding

_CODINGS = {"gzip": "gzip", "x-gzip": "gzip", "deflate": "deflate"}
_PART = 1 << 18  # bytes; other requests run between two parts
_MAX_MEMBERS = 1000  # of a gzip file; more than a compressor of blocks writes within an upload
_GZIP, _ZLIB, _RAW = 16 + zlib.MAX_WBITS, zlib.MAX_WBITS, -zlib.MAX_WBITS
_ZLIB_METHOD = 8


async def decompressed(chunks: AsyncIterator[bytes], content_encodings: Sequence[str]) -> AsyncIterator[bytes]:
    """The content of a body with these Content-Encoding headers (RFC 9110, 8.4), in parts of at most 256 KiB.

    Accepts gzip, also of several members (RFC 1952, 2.2), and deflate, also without the header of zlib, as some
    clients send it. Raises ``UnsupportedEncoding``, or ``InvalidRequest`` if the data is damaged.
    """
    coding = _coding(content_encodings)
    if coding is None:
        async for chunk in chunks:
            yield chunk
        return
    decoder = _Decoder(coding)
    async for chunk in chunks:
        for part in decoder.write(chunk):
            yield part
            await asyncio.sleep(0)
    for part in decoder.finish():
        yield part


def _coding(headers: Sequence[str]) -> str | None:
    """gzip, deflate, or None if the body is not compressed. Raises ``UnsupportedEncoding``."""
    names = [name.strip().lower() for name in ",".join(headers).split(",")]
    applied = [name for name in names if name not in ("", "identity")]
    if not applied:
        return None
    if len(applied) > 1 or applied[0] not in _CODINGS:
        raise UnsupportedEncoding(
            f"The Content-Encoding {', '.join(applied)[:40]!r} is not accepted; send gzip, deflate or none."
        )
    return _CODINGS[applied[0]]


class _Decoder:
    """Decompresses one body; what it yields are parts of at most ``_PART`` bytes."""

    def __init__(self, coding: str) -> None:
        self._coding = coding
        self._start = b""  # kept until there are two bytes, which tell how deflate is framed
        self._stream = zlib.decompressobj(_GZIP)
        self._members = 0

    def write(self, chunk: bytes) -> Iterator[bytes]:
        """What the next bytes of the body decompress to."""
        if not self._members:
            self._start += chunk
            if len(self._start) < 2:
                return
            chunk, self._start = self._start, self._start[:2]
            self._begin_member(chunk)
        while chunk:
            if self._stream.eof:
                chunk = chunk.lstrip(b"\0")  # as gzip does with the padding of tapes and blocks
                if not chunk:
                    return
                self._begin_member(chunk)
            yield self._decompress(chunk)
            chunk = self._stream.unused_data if self._stream.eof else self._stream.unconsumed_tail

    def finish(self) -> Iterator[bytes]:
        """What is still to come at the end of the body."""
        while self._members and not self._stream.eof and (part := self._decompress(b"")):
            yield part
        if not self._stream.eof:
            raise InvalidRequest(
                f"The body is not valid {self._coding}: it {'ends early' if self._start else 'is empty'}."
            )

    def _begin_member(self, data: bytes) -> None:
        self._members += 1
        if self._coding == "gzip":
            self._check_gzip(data)
            self._stream = zlib.decompressobj(_GZIP)
        elif self._members == 1:
            has_header = data[0] & 0x0F == _ZLIB_METHOD and int.from_bytes(data[:2], "big") % 31 == 0  # RFC 1950, 2.2
            self._stream = zlib.decompressobj(_ZLIB if has_header else _RAW)
        else:
            raise InvalidRequest("The body is not valid deflate: there is data after its end.")

    def _check_gzip(self, data: bytes) -> None:
        if self._members > _MAX_MEMBERS:
            raise InvalidRequest(f"The body is not accepted as gzip: it has more than {_MAX_MEMBERS} members.")
        if self._members > 1 and data[:1] != b"\x1f":
            raise InvalidRequest("The body is not valid gzip: there is data after its end.")
        if self._members == 1 and data[:2] != b"\x1f\x8b":
            raise InvalidRequest(
                f"The body is not gzip, although Content-Encoding says so: it begins with {data[:4].hex(' ')}."
                " Compress it, or leave out the header."
            )

    def _decompress(self, data: bytes) -> bytes:
        try:
            return self._stream.decompress(data, _PART)
        except zlib.error as error:
            raise InvalidRequest(f"The body is not valid {self._coding}: {error}") from error
