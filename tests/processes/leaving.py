"""A process that ends before one that it has started."""

from __future__ import annotations

import os
import subprocess


def main(descriptor: int) -> None:
    """Leave somebody behind who holds the line open."""
    subprocess.Popen(["sleep", "300"], pass_fds=(descriptor,))
    os._exit(3)
