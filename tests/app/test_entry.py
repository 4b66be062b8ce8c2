"""The command's entry: what a SIGTERM does before the server is there."""

import os
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_a_sigterm_while_it_starts_ends_it_through_a_handler(tmp_path):
    """Without one it would die of the signal (-15) here, and ignore it as process 1 of a container."""
    gate = tmp_path / "checkpoint.safetensors"
    os.mkfifo(gate)  # reading the checkpoint waits here, so the signal comes in the middle of the start
    process = subprocess.Popen([sys.executable, "-m", "app", "serve", "--port", "0", "--model", gate], cwd=ROOT)
    with gate.open("wb"):  # opens once the service has opened the other end
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 128 + signal.SIGTERM
