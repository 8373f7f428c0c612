"""`agl proxy` as a user starts and stops it."""

from __future__ import annotations

import re
import signal
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import openai
import pytest
from starlette.responses import JSONResponse

import agentlightning as agl
from agentlightning.store.tokens import agent_token
from tests.cli.serving_process import ended, finished, served
from tests.llm_proxy.scripted_backend import ScriptedBackend

HI = [{"role": "user", "content": "hi"}]


@pytest.fixture
async def backend() -> AsyncIterator[ScriptedBackend]:
    backend = ScriptedBackend()
    backend.models = ["policy"]
    await backend.server.start()
    yield backend
    await backend.server.stop()


def endpoint_in(said: str, attempted: agl.AttemptedRollout) -> str:
    """The base URL that the command says, for an attempt."""
    shown = re.findall(r"OPENAI_BASE_URL=(\S+)", said)[0]
    return shown.replace("ROLLOUT_ID", attempted.rollout_id).replace("ATTEMPT_ID", attempted.attempt.attempt_id)


def names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


async def ask(endpoint: str, model: str = "policy", key: str = "unused") -> str:
    async with openai.AsyncOpenAI(base_url=endpoint, api_key=key, max_retries=0) as client:
        return (await client.chat.completions.create(model=model, messages=HI)).id


@pytest.mark.parametrize(("how", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
async def test_what_was_recorded_is_in_the_file_when_it_was_told_to_stop(
    tmp_path: Path, backend: ScriptedBackend, how: signal.Signals, code: int
) -> None:
    store = agl.SqliteLightningStore(tmp_path / "store.db")
    attempted = await store.start_rollout(input={})
    options = ("--backend", backend.server.url, "--store", "store.db", "--port", "0")
    async with served("proxy", *options, folder=tmp_path) as (process, said):
        assert "serving policy" in said
        answered = await ask(endpoint_in(said, attempted))
        process.send_signal(how)
        assert await ended(process) == code
    (span,) = await store.query_spans(attempted.rollout_id)
    assert span.attributes["gen_ai.response.id"] == answered
    assert (tmp_path / "stderr").read_text() == ""
    assert list((tmp_path / "agl-journal").glob("*.journal")) == []
    await store.close()


async def test_it_records_into_a_stores_server(tmp_path: Path, backend: ScriptedBackend) -> None:
    kept = agl.InMemoryLightningStore()
    server = agl.LightningStoreServer(kept, port=0)
    await server.start()
    attempted = await kept.start_rollout(input={})
    options = ("--backend", f"{backend.server.url}/v1/", "--store", server.endpoint, "--port", "0")
    async with served("proxy", *options, folder=tmp_path) as (process, said):
        answered = await ask(endpoint_in(said, attempted))
        process.terminate()
        assert await ended(process) == 0
    (span,) = await kept.query_spans(attempted.rollout_id)
    assert span.attributes["gen_ai.response.id"] == answered
    await server.stop()
    await kept.close()


async def test_calls_that_the_store_did_not_take_are_kept_for_the_next_gateway(
    tmp_path: Path, backend: ScriptedBackend
) -> None:
    store = agl.SqliteLightningStore(tmp_path / "store.db")
    attempted = await store.start_rollout(input={})
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        options = ("--backend", backend.server.url, "--port", "0", "--journal", "waiting")
        away = ("--store", f"http://127.0.0.1:{nobody.getsockname()[1]}")
        async with served("proxy", *options, *away, folder=tmp_path) as (process, said):
            answered = await ask(endpoint_in(said, attempted))
            process.terminate()
            assert await ended(process) == 0
    assert "waiting" in (tmp_path / "stderr").read_text()
    async with served("proxy", *options, "--store", "store.db", folder=tmp_path) as (process, _):
        process.terminate()
        assert await ended(process) == 0
    (span,) = await store.query_spans(attempted.rollout_id)
    assert span.attributes["gen_ai.response.id"] == answered
    await store.close()


async def test_several_backends_share_the_calls_of_a_model(tmp_path: Path, backend: ScriptedBackend) -> None:
    other = ScriptedBackend()
    await other.server.start()
    options = ("--backend", backend.server.url, "--backend", other.server.url, "--model", "org/net", "--port", "0")
    async with served("proxy", *options, "--store", "store.db", folder=tmp_path) as (_, said):
        endpoint = re.findall(r'endpoint="(\S+)"', said)[0]
        for _ in range(8):
            await ask(endpoint, "org/net")
    assert len(backend.requests) + len(other.requests) == 8
    assert backend.requests
    assert other.requests
    assert {request["model"] for request in [*backend.requests, *other.requests]} == {"org/net"}
    await other.server.stop()


@pytest.mark.parametrize("retries", [0, 1])
async def test_calls_are_made_again_as_often_as_is_said(tmp_path: Path, backend: ScriptedBackend, retries: int) -> None:
    backend.script = lambda _: JSONResponse({"error": {"message": "not now"}}, 503)
    options = ("--backend", backend.server.url, "--store", "store.db", "--port", "0", "--num-retries", str(retries))
    async with served("proxy", *options, folder=tmp_path) as (_, said):
        with pytest.raises(openai.InternalServerError):
            await ask(re.findall(r'endpoint="(\S+)"', said)[0])
    assert len(backend.requests) == 1 + retries


async def test_backends_get_the_key_and_agents_need_none(tmp_path: Path, backend: ScriptedBackend) -> None:
    options = ("--backend", backend.server.url, "--store", "store.db", "--port", "0")
    async with served("proxy", *options, folder=tmp_path, AGL_BACKEND_KEY="the-key") as (_, said):
        assert "the-key" not in said
        await ask(re.findall(r'endpoint="(\S+)"', said)[0])
    assert [headers["authorization"] for headers in backend.headers] == ["Bearer the-key"] * 2


async def test_other_machines_need_a_token_and_agents_have_those_of_their_attempts(
    tmp_path: Path, backend: ScriptedBackend
) -> None:
    store = agl.SqliteLightningStore(tmp_path / "store.db")
    own, other = [await store.start_rollout(input={}) for _ in range(2)]
    options = ("--backend", backend.server.url, "--store", "store.db", "--port", "0", "--host", "0.0.0.0")
    async with served("proxy", *options, folder=tmp_path) as (_, said):
        token = agent_token(re.findall(r"AGL_TOKEN=(\S+)", said)[0], own.rollout_id, own.attempt.attempt_id)
        answered = await ask(endpoint_in(said, own), key=token)
        with pytest.raises(openai.PermissionDeniedError):
            await ask(endpoint_in(said, other), key=token)
        with pytest.raises(openai.AuthenticationError):
            await ask(endpoint_in(said, own))
        assert answered == "chatcmpl-1"
    assert [headers.get("authorization") for headers in backend.headers] == [None, None]
    await store.close()


async def test_two_gateways_do_not_share_a_journal(tmp_path: Path, backend: ScriptedBackend) -> None:
    options = ("--backend", backend.server.url, "--store", "store.db", "--port", "0")
    async with served("proxy", *options, folder=tmp_path):
        code, stdout, stderr = await finished("proxy", *options, folder=tmp_path)
    assert (code, stdout) == (1, "")
    assert "agl-journal" in stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("--backend localhost:8000 --store x.db", "http://localhost:8000/v1"),
        ("--backend {url}/none --store x.db", "--model"),
        ("--backend http://127.0.0.1:1 --store x.db", "is the server running"),
        ("--backend {url} --model m --store mongodb://x", "postgresql://"),
        ("--backend {url} --model m --store nowhere/x.db", "nowhere"),
        ("--backend {url} --model m --store x.db --log-level loud", "DEBUG"),
        ("--backend {url} --model m --store x.db --host nosuch.invalid --token x", "address of this machine"),
        ("--backend {url} --model m --store x.db --port {port}", "another port"),
        ("--backend {url} --model m --store x.db --token=", "empty"),
    ],
    ids=["no url", "no list", "nobody", "location", "folder", "level", "host", "port", "token"],
)
async def test_what_cannot_work_is_one_line_and_exit_code_1(
    tmp_path: Path, backend: ScriptedBackend, options: str, says: str
) -> None:
    url = backend.server.url
    words = options.format(url=url, port=url.rpartition(":")[2]).split()
    code, stdout, stderr = await finished(
        "proxy", *(["--port", "0"] if "--port" not in words else []), *words, folder=tmp_path
    )
    assert (code, stdout, stderr.count("\n")) == (1, "", 1)
    assert says in stderr
    assert names_in(tmp_path) == []


async def test_a_backend_that_lists_no_model_is_named(tmp_path: Path, backend: ScriptedBackend) -> None:
    backend.models = []
    code, _, stderr = await finished("proxy", "--backend", backend.server.url, "--store", "x.db", folder=tmp_path)
    assert code == 1
    assert "lists no model" in stderr


async def test_help_shows_how(tmp_path: Path) -> None:
    code, stdout, _ = await finished("proxy", "--help", folder=tmp_path)
    assert code == 0
    assert "Example: agl proxy --backend" in " ".join(stdout.split())
