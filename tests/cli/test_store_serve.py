"""`agl store` as a user starts and stops it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import agentlightning as agl
from agentlightning.errors import Unauthorized
from tests.cli.forked import call_agl

DEADLINE = 60
COMMAND = (sys.executable, "-c", "import sys; from agentlightning.cli import main; sys.exit(main())", "store")


@contextmanager
def served(*options: str, folder: Path, **environment: str) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """Start the command; yields it with what it said."""
    process = subprocess.Popen(
        [*COMMAND, "--port", "0", *options],
        cwd=folder,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        said = [line for line in iter(process.stdout.readline, "Ctrl+C stops it.\n") if line or process.poll() is None]
        yield process, said
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate(timeout=DEADLINE)


def url_in(said: list[str]) -> str:
    return said[1].split('"')[1]


def finished(*options: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return call_agl("store", "--port", "0", *options, folder=folder)


@pytest.mark.parametrize(("how", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
async def test_it_serves_a_file_until_it_is_told_to_stop(tmp_path: Path, how: signal.Signals, code: int) -> None:
    with served(folder=tmp_path) as (process, said):
        assert str(tmp_path / "agl-store.db") in said[0]
        assert "FULL" in said[0]
        async with agl.LightningStoreClient(url_in(said)) as client:
            made = await client.enqueue_rollout({"task": 1})
        process.send_signal(how)
        assert process.wait(DEADLINE) == code
        assert process.stderr is not None
        assert process.stderr.read() == ""
    store = agl.SqliteLightningStore(tmp_path / "agl-store.db")
    assert await store.get_rollout_by_id(made.rollout_id) == made
    await store.close()


async def test_other_machines_need_the_token_that_is_made_and_printed(tmp_path: Path) -> None:
    with served("--backend", "memory", "--host", "0.0.0.0", folder=tmp_path) as (_, said):
        token = said[2].split("AGL_TOKEN=")[1].strip()
        local = f"http://127.0.0.1:{url_in(said).rpartition(':')[2]}"
        async with agl.LightningStoreClient(local, token=token) as client:
            assert await client.dequeue_rollout() is None
        async with agl.LightningStoreClient(local, token=token + "x") as stranger:
            with pytest.raises(Unauthorized):
                await stranger.statistics()


async def test_a_token_that_was_given_is_not_printed(tmp_path: Path) -> None:
    with served("--backend", "memory", folder=tmp_path, AGL_TOKEN="the-token-given") as (_, said):
        assert "the-token-given" not in "".join(said)
        async with agl.LightningStoreClient(url_in(said)) as stranger:
            with pytest.raises(Unauthorized):
                await stranger.statistics()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--backend", "mongo"), "postgres"),
        (("--backend", "mongo", "--mongo-uri", "mongodb://localhost"), "postgres"),
        (("--n-workers", "2"), "PostgreSQL"),
        (("--token", ""), "empty"),
        (("--token", "two words"), "visible ASCII"),
        (("--host", "nosuch.invalid", "--token", "x"), "address of this machine"),
        (("--backend", "postgres"), "--dsn"),
        (("--backend", "memory", "--n-workers", "2"), "PostgreSQL"),
        (("--log-level", "loud"), "DEBUG"),
        (("--file", "nowhere/store.db"), "nowhere/store.db"),
    ],
)
def test_what_cannot_work_is_one_line_and_exit_code_1(tmp_path: Path, options: tuple[str, ...], says: str) -> None:
    done = finished(*options, folder=tmp_path)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert says in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_taken_port_is_one_line_and_exit_code_1(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = finished("--port", port, folder=tmp_path)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert port in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("trackers", ["--tracker prometheus --tracker console", "--tracker prometheus console"])
async def test_v03s_flags_are_accepted(tmp_path: Path, trackers: str) -> None:
    flags = "--host 127.0.0.1 --cors-origin https://a.example --cors-origin https://b.example --log-level INFO"
    more = f"{trackers} --n-workers 1 --backend memory"
    with served(*flags.split(), *more.split(), folder=tmp_path) as (_, said):
        async with agl.LightningStoreClient(url_in(said)) as client:
            assert (await client.statistics()).get("total_rollouts") == 0
