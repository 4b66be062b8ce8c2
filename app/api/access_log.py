"""AccessEntry: what is logged of one request; formatted in the thread that writes the log."""

import logging
from typing import NamedTuple
from urllib.parse import quote

from opentelemetry.trace import SpanContext, format_span_id, format_trace_id

_MAX_PATH_LENGTH = 200
_MAX_METHOD_LENGTH = 20
_PATH_CHARACTERS = "/!$&'()*+,;=:@"  # of RFC 3986, besides those that ``quote`` never escapes
_log = logging.getLogger("app.access")


class AccessEntry(NamedTuple):
    """One request and its response, as the message of a log record: ``str`` is its text, ``fields`` its JSON."""

    method: str
    path: str  # decoded, as the client chose it
    route: str
    status: int
    duration_s: float
    request_id: str
    problem: str | None
    span: SpanContext | None = None  # of the request, if it is traced

    def __str__(self) -> str:
        request = f"{self.method[:_MAX_METHOD_LENGTH]} {_escape(self.path)}"
        text = f"{request} {self.status} {1000 * self.duration_s:.1f} ms id={self.request_id}"
        return text if self.problem is None else f"{text} problem={self.problem}"

    def fields(self) -> dict[str, object]:
        """The fields of a JSON line."""
        fields: dict[str, object] = {
            "method": self.method[:_MAX_METHOD_LENGTH],
            "path": _escape(self.path),
            "route": self.route,
            "status": self.status,
            "duration_ms": round(1000 * self.duration_s, 3),
            "request_id": self.request_id,
            "problem": self.problem,
        }
        if self.span is not None:
            fields |= {"trace_id": format_trace_id(self.span.trace_id), "span_id": format_span_id(self.span.span_id)}
        return fields


def log_access(entry: AccessEntry, *, is_probe: bool) -> None:
    """Logs a request; probes only if they fail, or at the level debug."""
    level = logging.DEBUG if is_probe and entry.status < 400 else logging.INFO
    if _log.isEnabledFor(level):
        # Logger.log would look up the line of code that calls it.
        _log.handle(_log.makeRecord(_log.name, level, "", 0, entry, (), None))


def _escape(path: str) -> str:
    """The path in percent-encoding, cut off where it is too long, so that no client can forge or flood the log."""
    escaped = quote(path[:_MAX_PATH_LENGTH], safe=_PATH_CHARACTERS)
    return f"{escaped[:_MAX_PATH_LENGTH]}…" if len(escaped) > _MAX_PATH_LENGTH or path[_MAX_PATH_LENGTH:] else escaped
