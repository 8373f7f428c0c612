"""The `agl` command."""

from __future__ import annotations

from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run `agl` and return its exit code: 0 for success, 2 for wrong usage, 130 after Ctrl+C.

    Args:
        argv: Arguments without the program's name; the process's own when omitted.
    """
    from agentlightning.cli.interrupt import interrupt_exits_at_once

    with interrupt_exits_at_once():
        from agentlightning.cli.app import run
    return run(argv)
