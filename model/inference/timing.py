"""logged: how long a part of the start-up took."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

logger = logging.getLogger(__name__)


@contextmanager
def logged(what: str) -> Iterator[None]:
    """Logs the time that the block takes."""
    started_at = time.perf_counter()
    try:
        yield
    finally:
        logger.info("%s: %.1f s", what, time.perf_counter() - started_at)
