"""Who has a file open is known, however they came and went."""

import multiprocessing
import threading
import warnings
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from agentlightning.errors import ConfigurationError
from agentlightning.store import SqliteLightningStore
from agentlightning.store.presence import Presence

PATIENCE = 10.0


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "store.db")


def test_the_first_one_is_alone_until_the_last_one_left(path: str) -> None:
    first, second, third, fourth = (Presence(path) for _ in range(4))
    assert first.arrive()
    assert not second.arrive()
    first.leave()
    assert not third.arrive()
    second.leave()
    third.leave()
    third.leave()
    assert not Path(f"{path}-open").exists()
    assert fourth.arrive()
    fourth.leave()


def test_whoever_arrives_while_others_leave_is_there(path: str) -> None:
    """Whatever file it was that they took away."""
    arriving = threading.Lock()

    def come_and_go() -> None:
        for _ in range(100):
            one = Presence(path)
            with arriving:
                one.arrive()
                other = Presence(path)
                assert not other.arrive()
            other.leave()
            one.leave()

    with ThreadPoolExecutor(4) as threads:
        for done in [threads.submit(come_and_go) for _ in range(4)]:
            done.result(6 * PATIENCE)
    assert not Path(f"{path}-open").exists()


@contextmanager
def forked_child() -> Generator[None]:
    context = multiprocessing.get_context("fork")
    runs, end = context.Event(), context.Event()

    def run() -> None:
        runs.set()
        end.wait(6 * PATIENCE)

    process = context.Process(target=run)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # forking beside threads is what this is about
        process.start()
    assert runs.wait(PATIENCE)
    try:
        yield
    finally:
        end.set()
        process.join(PATIENCE)
        assert process.exitcode == 0


def test_a_child_does_not_stay_in_the_stead_of_a_parent_that_died(path: str) -> None:
    parent, child, next_one = (Presence(path) for _ in range(3))
    assert parent.arrive()
    with forked_child():
        assert not child.arrive()  # the parent is there
        child.leave()
        parent.let_go()  # all that a process does that is killed
        assert next_one.arrive()
    next_one.leave()


def test_a_file_that_cannot_be_made_is_named(path: str) -> None:
    Path(f"{path}-open").mkdir()
    with pytest.raises(ConfigurationError, match="cannot keep a store in"):
        SqliteLightningStore(path)
