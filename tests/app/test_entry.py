"""The entry point: what a SIGTERM does while the service starts."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.constants import ROOT


def test_sigterm_during_startup_ends_the_process_through_a_handler(tmp_path: Path) -> None:
    """Without a handler the exit code would be -15, and process 1 of a container would ignore the signal."""
    gate = tmp_path / "checkpoint.safetensors"
    os.mkfifo(gate)  # the service blocks while it reads its checkpoint
    process = subprocess.Popen([sys.executable, "-m", "app", "serve", "--port", "0", "--model", gate], cwd=ROOT)
    with gate.open("wb"):  # blocks until the service has opened the checkpoint
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 128 + signal.SIGTERM
