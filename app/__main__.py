"""The command's entry, also ``python -m app``: a SIGTERM ends it from the first moment on."""

import signal
import sys
from types import FrameType


def main() -> int:
    """``app.cli.main``, ended with 143 by a SIGTERM that comes before the server answers signals itself.

    As process 1 of a container it would otherwise outlive every SIGTERM until then: the kernel delivers to that
    process only what it has a handler for.
    """
    signal.signal(signal.SIGTERM, _end)
    from app.cli import main as run  # here, for it takes seconds, during which the signal may come

    return run()


def _end(number: int, _frame: FrameType | None) -> None:
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
