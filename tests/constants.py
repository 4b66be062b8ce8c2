"""What tests share."""

from pathlib import Path

ROOT = Path(__file__).parents[1]
"""The folder of the project."""

WAIT_S = 60.0
"""More than anything takes, in seconds: only a failing test waits for so long."""
