"""Entry point of the command, also as ``python -m app``; handles a SIGTERM that arrives during start-up."""

import signal
import sys
from types import FrameType


def main() -> int:
    """Runs ``app.cli.main``. A SIGTERM before the server handles signals itself ends the process with 143.

    Without a handler, process 1 of a container would ignore the signal.
    """
    signal.signal(signal.SIGTERM, _end)
    try:
        from app.cli import main as run  # takes a moment, in which a signal may arrive
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    return run()


def _end(number: int, _frame: FrameType | None) -> None:
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
