"""What only Unix has: locks on files. Elsewhere, importing this says what to do."""

from __future__ import annotations

from agentlightning.errors import ConfigurationError

try:
    import fcntl
except ModuleNotFoundError as error:
    raise ConfigurationError(
        "agentlightning runs on Linux and macOS; this system has no fcntl, which locks files. On Windows, run it in "
        "WSL 2 (https://learn.microsoft.com/windows/wsl)"
    ) from error

__all__ = ["fcntl"]
