"""Where a system has no file locks, as Windows, whatever needs them says what to do."""

from __future__ import annotations

import subprocess
import sys

import pytest

WITHOUT = "import sys; sys.modules['fcntl'] = None\n"
SAID = "agentlightning runs on Linux and macOS"


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", WITHOUT + code], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("name", ["InMemoryLightningStore", "SqliteLightningStore", "Trainer"])
def test_what_cannot_run_there_says_so(name: str) -> None:
    done = run(f"import agentlightning as agl; agl.{name}")
    assert done.returncode == 1
    assert f"ConfigurationError: {SAID}" in done.stderr
    assert "WSL 2" in done.stderr


def test_the_command_line_says_so_in_one_line() -> None:
    done = run("from agentlightning.cli import main; sys.exit(main(['store', '--port', '0']))")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert SAID in done.stderr


def test_the_types_and_the_help_are_there_all_the_same() -> None:
    done = run("import agentlightning as agl; print(agl.Triplet(prompt='p', response='r').reward, agl.LLM)")
    assert (done.returncode, done.stdout) == (0, "None <class 'agentlightning.types.resources.LLM'>\n"), done.stderr
    done = run("from agentlightning.cli import main; sys.exit(main(['--help']))")
    assert done.returncode == 0, done.stderr
