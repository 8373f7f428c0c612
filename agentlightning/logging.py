"""Log output of the package, for programs that have not set up logging of their own."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

_FORMAT: Final = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_TREE: Final = "agentlightning"
_OURS: Final = "agl:"
"""What the names of handlers begin with that a later call takes away again."""
_EXTRA: Final = f"{_OURS}extra"


def setup_logging(
    level: int | str = "INFO",
    *,
    console: bool = True,
    color: bool | Mapping[str, Any] = True,
    propagate: bool = False,
    disable_existing_loggers: bool = False,
    capture_warnings: bool = False,
    submodule_levels: Mapping[str, int | str] | None = None,
    extra_handlers: Sequence[logging.Handler] | None = None,
    formatter: logging.Formatter | None = None,
    apply_to: Iterable[str] | None = None,
    files: str | Path | Mapping[str, str | Path] | None = None,
) -> None:
    """Let the loggers below `agentlightning` write to standard error; a later call takes the place of this one.

    Args:
        level: The least severe level to show.
        console: Whether to write to standard error at all.
        color: Whether to write in colours where standard error is a terminal; a dict has arguments of Rich's handler.
        propagate: Whether the handlers of the program's root logger get the records, too.
        disable_existing_loggers: Whether all loggers that are not ours fall silent.
        capture_warnings: Whether Python's warnings go to the log.
        submodule_levels: Levels of single loggers, such as `{"agentlightning.store": "DEBUG"}`.
        extra_handlers: More handlers for our loggers; closing them is up to you.
        formatter: Writes the lines; the console's stay Rich's where those have colours.
        apply_to: Names of other loggers that are to write the same way, and nowhere else.
        files: A file that gets all of it, or one for each of several loggers; folders are made.
    """
    setup_module_logging(
        level, console=console, color=color, propagate=propagate, disable_existing_loggers=disable_existing_loggers
    )
    ours = logging.getLogger(_TREE)
    for name, one_level in (submodule_levels or {}).items():
        logging.getLogger(name).setLevel(one_level)
    if formatter is not None:
        for handler in _ours_of(ours):
            if type(handler) is logging.StreamHandler:
                handler.setFormatter(formatter)
    for number, handler in enumerate(extra_handlers or ()):
        handler.name = f"{_EXTRA} {number}"
        ours.addHandler(handler)
    for name, path in files.items() if isinstance(files, Mapping) else [(_TREE, files)] if files else []:
        _write_to_file(logging.getLogger(name), Path(path), formatter)
    for name in (*(apply_to or ()), *(["py.warnings"] if capture_warnings else [])):
        _follow(logging.getLogger(name), ours)
    logging.captureWarnings(capture_warnings)


def setup_module_logging(
    level: int | str = "INFO",
    *,
    name: str = _TREE,
    console: bool = True,
    color: bool | Mapping[str, Any] = True,
    propagate: bool = False,
    disable_existing_loggers: bool = False,
) -> logging.Logger:
    """Let one logger, and those below it, write to standard error; see `setup_logging`. Returns it."""
    logger = logging.getLogger(name)
    _forget(logger)
    logger.setLevel(level)
    logger.propagate = propagate
    if console:
        logger.addHandler(_named("console", _console(color)))
    if disable_existing_loggers:
        for other, found in logging.root.manager.loggerDict.items():
            if isinstance(found, logging.Logger) and not f"{other}.".startswith(f"{name}."):
                found.disabled = True
    return logger


def configure_logger(level: int = logging.INFO, name: str = _TREE) -> logging.Logger:
    """Do what `setup_module_logging` does; v0.3's older name."""
    warnings.warn("configure_logger is deprecated: use setup_logging", DeprecationWarning, stacklevel=2)
    return setup_module_logging(level, name=name)


setup = setup_logging
setup_module = setup_module_logging


def _console(color: bool | Mapping[str, Any]) -> logging.Handler:
    if color is False or not sys.stderr.isatty():
        return _formatted(logging.StreamHandler(), None)
    from rich.console import Console
    from rich.logging import RichHandler

    given: dict[str, Any] = dict(color) if isinstance(color, Mapping) else {}
    given.setdefault("console", Console(stderr=True))
    return RichHandler(**given)


def _write_to_file(logger: logging.Logger, path: Path, formatter: logging.Formatter | None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    _forget(logger, "file")
    logger.addHandler(_named("file", _formatted(logging.FileHandler(path, encoding="utf-8"), formatter)))


def _follow(logger: logging.Logger, ours: logging.Logger) -> None:
    _forget(logger, "")
    logger.setLevel(ours.level)
    logger.propagate = False
    for handler in ours.handlers:
        logger.addHandler(handler)


def _formatted(handler: logging.Handler, formatter: logging.Formatter | None) -> logging.Handler:
    handler.setFormatter(formatter or logging.Formatter(_FORMAT))
    return handler


def _named(name: str, handler: logging.Handler) -> logging.Handler:
    handler.name = _OURS + name
    return handler


def _ours_of(logger: logging.Logger, name: str = "") -> list[logging.Handler]:
    return [handler for handler in logger.handlers if (handler.name or "").startswith(_OURS + name)]


def _forget(logger: logging.Logger, name: str = "") -> None:
    for handler in _ours_of(logger, name):
        logger.removeHandler(handler)
        if not (handler.name or "").startswith(_EXTRA):
            handler.close()
