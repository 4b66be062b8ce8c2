"""FormFiles: the files of a multipart/form-data body, collected while it is read (RFC 7578)."""

import codecs
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import unquote

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from app.api.problems import InvalidRequest

if TYPE_CHECKING:  # the type does not exist at run time
    from python_multipart.multipart import MultipartCallbacks


_START = 512  # bytes, which are enough to tell an image from text
_MAX_PREAMBLE = 1000  # bytes
_QUERY_PARAMETERS = ("top_k", "min_probability", "class_id", "encoding")
_QUOTED = re.compile(r'"(?:\\.?|[^"\\])*"?')  # a string without end, too: each would be searched to the end again
_LIST_INDEX = re.compile(r"\[\d*\]$")  # which axios, PHP and Rails add to the names of lists
_EXTENDED_NAME = re.compile(r"filename\*\s*=\s*(utf-8|iso-8859-1)'[^']*'([^;\s]*)", re.IGNORECASE)  # of RFC 8187


@dataclass(frozen=True)
class FormFile:
    """One uploaded file; its name is empty if the client sent none."""

    name: str
    content: bytes


class FormFiles:
    """Keeps up to ``max_files`` parts named ``field_name``; every other part is an error.

    A part without a file name is a text field, which is an error, if its content is text and not what ``is_image``
    accepts. Part names are decoded as UTF-8, never with a charset that the client chooses. All methods raise
    ``InvalidRequest``.
    """

    def __init__(self, content_type: str, field_name: str, max_files: int, is_image: Callable[[bytes], bool]) -> None:
        self._parts: list[tuple[str | None, bytearray]] = []  # file names and contents
        self._field_name = field_name
        self._max_files = max_files
        self._is_image = is_image
        self._header = (bytearray(), bytearray())  # name and value
        self._disposition = ""
        self._begun = self._ended = False
        boundary = parse_options_header(content_type)[1].get(b"boundary")
        if not boundary:
            raise InvalidRequest(
                "The Content-Type header has no multipart boundary; let the client set the header, with its boundary."
            )
        self._delimiter = b"--" + boundary
        self._preamble = bytearray()
        callbacks: MultipartCallbacks = {
            "on_part_begin": self._on_part_begin,
            "on_header_field": self._on_header_field,
            "on_header_value": self._on_header_value,
            "on_header_end": self._on_header_end,
            "on_headers_finished": self._on_headers_finished,
            "on_part_data": self._on_part_data,
            "on_end": self._on_end,
        }
        try:
            self._parser = MultipartParser(boundary, callbacks)
        except FormParserError as error:
            raise InvalidRequest(f"The multipart boundary is invalid: {error}") from error

    def write(self, data: bytes) -> None:
        """Parses the next bytes of the body."""
        if not self._begun:
            data = self._after_preamble(data)
        try:
            self._parser.write(data)
        except FormParserError as error:
            raise InvalidRequest(f"The multipart body is malformed: {error}") from error

    def finish(self) -> list[FormFile]:
        """The files of the whole body."""
        if not self._begun:
            raise self._no_boundary()
        if not self._ended:
            raise InvalidRequest("The multipart body is malformed: it ends before its closing boundary.")
        if not self._parts:
            raise InvalidRequest(f"There is no part named '{self._field_name}'.")
        files: list[FormFile] = []
        while self._parts:  # one at a time, so that no more than one is held twice
            name, content = self._parts.pop(0)
            if name is None and not self._is_image(start := bytes(content[:_START])) and _is_text(start):
                raise InvalidRequest(
                    f"The part '{self._field_name}' is the text {start[:40].decode('utf-8', 'ignore')!r}; it must be"
                    " the bytes of an image. URLs are not fetched, as they could reach internal hosts; base64 is"
                    " accepted in JSON."
                )
            files.append(FormFile(name or "", bytes(content)))
        return files

    def _after_preamble(self, data: bytes) -> bytes:
        """What is known of the body from its first boundary on; the preamble is skipped (RFC 2046, 5.1.1)."""
        self._preamble += data
        start = (b"\n" + self._preamble).find(b"\n" + self._delimiter)
        if start > _MAX_PREAMBLE or (start < 0 and len(self._preamble) >= _MAX_PREAMBLE + len(self._delimiter)):
            raise self._no_boundary()
        if start < 0:
            return b""
        self._begun = True
        body = bytes(self._preamble[start:])
        self._preamble.clear()
        return body

    def _no_boundary(self) -> InvalidRequest:
        delimiter = self._delimiter[:40].decode("latin-1")
        start = bytes(self._preamble[:20])
        return InvalidRequest(
            f"The multipart body is malformed: it begins with {start!r}, not with its boundary, {delimiter!r}."
        )

    def _on_part_begin(self) -> None:
        self._disposition = ""

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header[0].extend(data[start:end])

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header[1].extend(data[start:end])

    def _on_header_end(self) -> None:
        name, value = self._header
        if name.lower() == b"content-disposition":
            self._disposition = value.decode("latin-1")  # as parse_options_header expects
        name.clear()
        value.clear()

    def _on_headers_finished(self) -> None:
        name, file_name = _names(self._disposition)
        name = _LIST_INDEX.sub("", name)
        if name in _QUERY_PARAMETERS:
            raise InvalidRequest(f"{name} belongs in the query, not in the form: ?{name}=…")
        if name != self._field_name:
            found = f"{name[:40]!r} is not known" if name else "has no name"
            raise InvalidRequest(f"The part {found}; the one with the image must be named '{self._field_name}'.")
        if len(self._parts) == self._max_files:
            several = " Send several images to /predict/batch, as 'files'." if self._max_files == 1 else ""
            raise InvalidRequest(f"There are too many parts named '{name}'; the limit is {self._max_files}.{several}")
        self._parts.append((file_name, bytearray()))  # chunks would take several times their size

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        self._parts[-1][1].extend(memoryview(data)[start:end])

    def _on_end(self) -> None:
        self._ended = True


def _is_text(start: bytes) -> bool:
    """Whether a part that begins with ``start`` is text in UTF-8, which may be cut off within a character."""
    try:
        return b"\0" not in start and codecs.getincrementaldecoder("utf-8")().decode(start) is not None
    except UnicodeDecodeError:
        return False


def _names(disposition: str) -> tuple[str, str | None]:
    """The name of a part and that of its file, of which ``filename*`` (RFC 6266) takes precedence."""
    _, options = parse_options_header(disposition)
    name = options.get(b"name", b"").decode("utf-8", "replace")
    file_name = options[b"filename"].decode("utf-8", "replace") if b"filename" in options else None
    if extended := _EXTENDED_NAME.search(_QUOTED.sub("", disposition)):
        file_name = unquote(extended[2], extended[1], "replace")
    return name, file_name
