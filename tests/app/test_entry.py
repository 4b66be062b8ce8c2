"""The entry point: what a signal does while the service starts."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.constants import ROOT


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_a_signal_during_startup_ends_the_process_through_a_handler(tmp_path: Path, number: signal.Signals) -> None:
    """Without a handler the exit code would be negative, and process 1 of a container would ignore the signal."""
    gate = tmp_path / "checkpoint.safetensors"
    os.mkfifo(gate)  # the service blocks while it reads its checkpoint
    command = [sys.executable, "-m", "app", "serve", "--port", "0", "--model", str(gate)]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        with gate.open("wb"):  # blocks until the service has opened the checkpoint
            process.send_signal(number)
            assert process.communicate(timeout=30)[1] == ""
        assert process.returncode == 128 + number
