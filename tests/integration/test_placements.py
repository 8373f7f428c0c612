"""Every placement meets every event: the right exit code and error, the right statuses, and nothing left running."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from processes_of import MarkedProgram

import agentlightning as agl

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts processes in /proc")

PROGRAM = str(Path(__file__).with_name("placement_program.py"))
PLACEMENTS = ("shm", "cs", "cs_runner", pytest.param("ray", marks=pytest.mark.soak))


class Run(MarkedProgram):
    """The program in a placement, about to meet an event."""

    def __init__(self, folder: Path, placement: str, event: str, environment: dict[str, str] | None = None) -> None:
        self.folder = folder
        super().__init__(folder, PROGRAM, placement, event, str(folder), environment=environment)

    def wait_for_the_slow_rollout(self) -> int:
        """Wait until an agent has begun what never ends; returns the number of its process."""
        path = self.folder / "slow"
        self.wait_until(lambda: path.exists() and path.read_text(), "slow rollout")
        return int(path.read_text())

    def statuses(self) -> Counter[str]:
        return Counter(asyncio.run(_statuses(self.folder / "store.db")))

    def assert_the_slow_one_failed(self) -> None:
        """The algorithm may have seen it fail, and gone on for a moment, before its own end came."""
        statuses = self.statuses()
        assert statuses["failed"] == 1, self.log
        assert statuses["succeeded"] >= 2
        assert not {"preparing", "running"} & statuses.keys()


async def _statuses(path: Path) -> list[str]:
    store = agl.SqliteLightningStore(path)
    try:
        return [rollout.status for rollout in await store.query_rollouts()]
    finally:
        await store.close()


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("event", ["normal_end", "normal_end_in_a_loop"])
def test_normal_end(tmp_path: Path, placement: str, event: str) -> None:
    with Run(tmp_path, placement, event) as run:
        assert run.exit_code() == 0, run.log
        run.assert_nothing_is_left()
        assert "ended" in run.log
        assert run.statuses() == {"succeeded": 2}


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_error_of_the_algorithm(tmp_path: Path, placement: str) -> None:
    with Run(tmp_path, placement, "algorithm_error") as run:
        assert run.exit_code() == 1, run.log
        run.assert_nothing_is_left()
        assert "raised the program's own error of the algorithm" in run.log
        run.assert_the_slow_one_failed()


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_error_of_a_runner(tmp_path: Path, placement: str) -> None:
    with Run(tmp_path, placement, "runner_error") as run:
        assert run.exit_code() == 1, run.log
        run.assert_nothing_is_left()
        assert "raised the program's own error of the runner" in run.log
        run.assert_the_slow_one_failed()


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_error_of_the_store(tmp_path: Path, placement: str) -> None:
    with Run(tmp_path, placement, "store_error") as run:
        assert run.exit_code() == 1, run.log
        run.assert_nothing_is_left()
        assert "raised Forbidden the store has had enough" in run.log
        assert run.statuses() == {"succeeded": 2}


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("event", ["interrupt", "interrupt_in_a_loop"])
def test_ctrl_c(tmp_path: Path, placement: str, event: str) -> None:
    with Run(tmp_path, placement, event) as run:
        run.wait_for_the_slow_rollout()
        run.signal(signal.SIGINT)
        assert run.exit_code() == -signal.SIGINT, run.log
        run.assert_nothing_is_left()
        assert "raised KeyboardInterrupt" in run.log
        run.assert_the_slow_one_failed()


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("event", ["terminate", "terminate_in_a_loop"])
def test_sigterm(tmp_path: Path, placement: str, event: str) -> None:
    with Run(tmp_path, placement, event) as run:
        run.wait_for_the_slow_rollout()
        run.signal(signal.SIGTERM)
        assert run.exit_code() == 128 + signal.SIGTERM, run.log
        run.assert_nothing_is_left()
        assert "raised SystemExit 143" in run.log
        run.assert_the_slow_one_failed()


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_kill_of_the_calling_process(tmp_path: Path, placement: str) -> None:
    with Run(tmp_path, placement, "kill") as run:
        run.wait_for_the_slow_rollout()
        os.kill(run.process.pid, signal.SIGKILL)
        assert run.exit_code() == -signal.SIGKILL
        run.assert_nothing_is_left()
        statuses = run.statuses()
        assert statuses["succeeded"] == 2
        assert statuses["preparing"] + statuses["running"] == 1, "nobody was there to end it"


def test_kill_of_a_runner_is_seen_at_once_and_another_takes_its_place(tmp_path: Path) -> None:
    with Run(tmp_path, "cs", "kill_of_a_runner") as run:
        killed = run.wait_for_the_slow_rollout()
        assert killed != run.process.pid
        os.kill(killed, signal.SIGKILL)
        assert run.exit_code() == 0, run.log
        run.assert_nothing_is_left()
        assert run.statuses() == {"succeeded": 3, "failed": 1}


def test_kill_of_the_algorithms_process_ends_the_run(tmp_path: Path) -> None:
    with Run(tmp_path, "cs_runner", "kill_of_the_algorithm") as run:
        run.wait_for_the_slow_rollout()
        algorithm = int((tmp_path / "algorithm").read_text())
        assert algorithm != run.process.pid
        os.kill(algorithm, signal.SIGKILL)
        assert run.exit_code() == 1, run.log
        run.assert_nothing_is_left()
        assert "raised ExecutionError the process of the algorithm was killed by SIGKILL" in run.log
        run.assert_the_slow_one_failed()


def test_second_ctrl_c_ends_what_does_not_listen(tmp_path: Path) -> None:
    with Run(tmp_path, "cs", "two_interrupts") as run:
        blocked = run.wait_for_the_slow_rollout()
        run.signal(signal.SIGINT)
        run.wait_until(lambda: len(run.living()) == 2, "end of the runner that listens")
        assert set(run.living()) == {run.process.pid, blocked}
        run.signal(signal.SIGINT)
        assert run.exit_code() == -signal.SIGINT, run.log
        run.assert_nothing_is_left()
        run.assert_the_slow_one_failed()


@pytest.fixture
def roles() -> Callable[[str], dict[str, str]]:
    """Return the environment of a role in a run that is at home on another address of this machine."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.2", 0))
        port = probe.getsockname()[1]
    return lambda role: {
        "AGL_CURRENT_ROLE": role,
        "AGL_SERVER_HOST": "127.0.0.2",
        "AGL_SERVER_PORT": str(port),
        "AGL_TOKEN": "a-secret",
    }


def test_runners_started_by_hand_join_work_and_stop(tmp_path: Path, roles: Callable[[str], dict[str, str]]) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    with Run(elsewhere, "cs", "normal_end", roles("runner")) as runners:  # before there is anything to join
        with Run(tmp_path, "cs", "normal_end", roles("algorithm")) as run:
            assert run.exit_code() == 0, run.log
            run.assert_nothing_is_left()
            assert run.statuses() == {"succeeded": 2}
        assert runners.exit_code() == 0, runners.log
        runners.assert_nothing_is_left()


def test_ctrl_c_to_runners_elsewhere_is_theirs_alone(tmp_path: Path, roles: Callable[[str], dict[str, str]]) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    with Run(tmp_path, "cs", "interrupt", roles("algorithm")) as run:
        with Run(elsewhere, "cs", "interrupt", roles("runner")) as runners:
            runners.wait_for_the_slow_rollout()
            runners.signal(signal.SIGINT)
            assert runners.exit_code() == -signal.SIGINT, runners.log
            runners.assert_nothing_is_left()
        run.wait_until(lambda: run.statuses()["failed"], "failure of what they had in hand")
        assert run.process.poll() is None
        run.signal(signal.SIGINT)
        assert run.exit_code() == -signal.SIGINT, run.log
        run.assert_the_slow_one_failed()
