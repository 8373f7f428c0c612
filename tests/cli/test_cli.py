"""`agl` as a user calls it: exit codes, and what goes where."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import agentlightning
from agentlightning.demo.options import DemoOptions
from tests.cli.forked import call_agl

DEADLINE = 60


def fresh_agl(*arguments: str) -> subprocess.CompletedProcess[str]:
    entry_point = "import sys; from agentlightning.cli import main; sys.exit(main())"
    return subprocess.run(
        [sys.executable, "-c", entry_point, *arguments], capture_output=True, text=True, timeout=DEADLINE, check=False
    )


def test_version() -> None:
    done = fresh_agl("version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{agentlightning.__version__}\n", "")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--help",), ["demo", "version", "--verbose", "two minutes"]),
        (("demo", "--help"), ["--seed", "--steps", "--output", "--from-scratch", "Ctrl+C"]),
    ],
    ids=["agl", "demo"],
)
def test_help_names_everything(arguments: tuple[str, ...], says: list[str]) -> None:
    done = fresh_agl(*arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert [text for text in says if text not in done.stdout] == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("demo", "--stpes", "3"), "--stpes"),
        (("demo", "--steps", "0"), "--steps"),
        (("demo", "--steps", "many"), "--steps"),
        (("learn",), "learn"),
    ],
    ids=["option", "range", "type", "command"],
)
def test_wrong_usage_is_exit_2_and_names_what_is_wrong(arguments: tuple[str, ...], says: str) -> None:
    done = call_agl(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_folder_that_holds_a_run_is_exit_1_and_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "store.db").write_bytes(b"an earlier run")
    done = call_agl("demo", "--output", str(tmp_path))
    assert (done.returncode, done.stdout) == (1, "")
    assert (
        done.stderr == f"agl: {tmp_path} holds a run already; go on with it by --resume, or choose another --output\n"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["store.db"]
    assert (tmp_path / "store.db").read_bytes() == b"an earlier run"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--seed", "0"), "--seed 0 disagrees"),
        (("--steps", "40"), "--steps 40 disagrees"),
        (("--output", "other"), "--output other disagrees"),
        (("--from-scratch",), "--from-scratch True disagrees"),
        (("--strategy", "cs"), "--strategy cs disagrees"),
    ],
    ids=["seed", "steps", "output", "from-scratch", "strategy"],
)
def test_demo_goes_on_with_a_run_as_it_was_begun_or_says_what_disagrees(
    tmp_path: Path, options: tuple[str, ...], says: str
) -> None:
    DemoOptions(output=tmp_path, seed=7, steps=3).save()
    done = call_agl("demo", "--resume", str(tmp_path), *options)
    assert (done.returncode, done.stdout, says in done.stderr) == (1, "", True)
    assert [path.name for path in tmp_path.iterdir()] == ["demo.json"]


def test_options_that_agree_with_the_run_to_go_on_with_are_taken(tmp_path: Path) -> None:
    DemoOptions(output=tmp_path, seed=7, steps=3).save()
    done = call_agl("demo", "--resume", str(tmp_path), "--seed", "7", "--output", str(tmp_path / "." / "x" / ".."))
    assert (done.returncode, done.stderr) == (1, f"agl: {tmp_path} holds no run: there is no run.json in it\n")
