"""Exceptions of the serving layer. ``app.api.problems`` maps them to HTTP responses.

ServingError
├── InvalidParameter   a parameter is out of range
├── Overloaded         too many requests are waiting; ``retry_after_s`` says when to try again
├── Unavailable        the service is starting, draining, or its engine failed
└── DeadlineExceeded   the request was not completed in time

Errors of the image itself are those of ``model.errors``.
"""


class ServingError(Exception):
    """Base class; ``str(error)`` is a sentence for the client."""


class InvalidParameter(ServingError):
    """A parameter is unknown or out of range."""


class Overloaded(ServingError):
    """Too many requests are waiting. ``retry_after_s`` is when a retry is likely to be admitted, in seconds."""

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Unavailable(ServingError):
    """The service is starting, draining, or its engine failed."""


class DeadlineExceeded(ServingError):
    """The request was not completed before its deadline."""
