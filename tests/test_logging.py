"""What the log functions promise, on loggers that no other test uses, and on ours with everything put back."""

from __future__ import annotations

import io
import logging
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

import agentlightning as agl

NAMES = ("agentlightning", "agentlightning.bakery", "bakery", "py.warnings")


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in NAMES]
    before = [(logger.level, logger.propagate, list(logger.handlers)) for logger in loggers]
    yield
    for logger, (level, propagate, handlers) in zip(loggers, before, strict=True):
        for handler in logger.handlers:
            if handler not in handlers:
                handler.close()
        logger.setLevel(level)
        logger.propagate, logger.handlers = propagate, handlers
    logging.captureWarnings(False)


OURS = logging.getLogger("agentlightning.bakery")
THEIRS = logging.getLogger("bakery")


def test_the_last_call_counts_and_each_record_is_written_once(capsys: pytest.CaptureFixture[str]) -> None:
    agl.setup_logging("DEBUG")
    agl.setup_logging("WARNING")
    OURS.info("rye")
    OURS.warning("burnt")
    THEIRS.warning("theirs")
    assert [line.split(" ", 2)[2] for line in capsys.readouterr().err.splitlines()] == [
        "WARNING agentlightning.bakery: burnt"
    ]


def test_nothing_is_written_where_nothing_is_wanted(capsys: pytest.CaptureFixture[str]) -> None:
    agl.setup_logging(console=False)
    OURS.info("rye")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("propagate", "expected"), [(False, []), (True, ["rye"])])
def test_the_roots_handlers_get_records_when_asked_for(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, propagate: bool, expected: list[str]
) -> None:
    agl.setup_logging(propagate=propagate)
    OURS.info("rye")
    assert caplog.messages == expected


def test_a_formatter_more_handlers_and_levels_of_single_loggers(capsys: pytest.CaptureFixture[str]) -> None:
    more = io.StringIO()
    agl.setup_logging(
        formatter=logging.Formatter("<%(message)s>"),
        extra_handlers=[logging.StreamHandler(more)],
        submodule_levels={"agentlightning.bakery": "ERROR"},
    )
    OURS.warning("burnt")
    OURS.error("on fire")
    assert capsys.readouterr().err == "<on fire>\n"
    assert more.getvalue() == "on fire\n"


def test_files_and_other_loggers(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for _ in range(2):
        agl.setup_logging(apply_to=["bakery"], files=str(tmp_path / "logs" / "all.log"))
    OURS.info("rye")
    THEIRS.info("wheat")
    written = (tmp_path / "logs" / "all.log").read_text("utf-8")
    assert [line.split(": ")[1] for line in written.splitlines()] == ["rye", "wheat"]
    agl.setup_logging(console=False, files={"agentlightning.bakery": tmp_path / "bakery.log"})
    OURS.info("spelt")
    assert (tmp_path / "bakery.log").read_text("utf-8").endswith("agentlightning.bakery: spelt\n")
    assert (tmp_path / "logs" / "all.log").read_text("utf-8") == written


def test_one_logger_alone_is_set_up_and_returned(capsys: pytest.CaptureFixture[str]) -> None:
    assert agl.setup_module_logging("INFO", name="bakery") is THEIRS
    with pytest.warns(DeprecationWarning, match="use setup_logging"):
        assert agl.configure_logger(logging.INFO, "bakery") is THEIRS
    THEIRS.info("wheat")
    assert capsys.readouterr().err.count("wheat") == 1


def test_colours_are_for_terminals(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stderr", terminal)
    agl.setup_logging(color={"show_path": False})
    assert type(logging.getLogger("agentlightning").handlers[-1]).__name__ == "RichHandler"
    agl.setup_logging(color=False)
    assert type(logging.getLogger("agentlightning").handlers[-1]) is logging.StreamHandler


def test_warnings_go_to_the_log_when_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        agl.setup_logging(capture_warnings=True)
        warnings.warn("the oven is old", UserWarning, stacklevel=1)
    assert "WARNING py.warnings" in (written := capsys.readouterr().err)
    assert "UserWarning: the oven is old" in written


def test_loggers_of_others_fall_silent_when_asked_to(capsys: pytest.CaptureFixture[str]) -> None:
    disabled = [name for name in logging.root.manager.loggerDict if logging.getLogger(name).disabled]
    try:
        agl.setup_logging(disable_existing_loggers=True)
        OURS.info("rye")
        assert THEIRS.disabled
        assert "rye" in capsys.readouterr().err
    finally:
        for name in logging.root.manager.loggerDict:
            logging.getLogger(name).disabled = name in disabled
