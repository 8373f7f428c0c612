"""A backend is asked for tokens if it takes the question, and the agent's own request is never cut."""

from __future__ import annotations

from typing import Any

import openai
import pytest
from scripted_backend import ScriptedBackend, answer
from starlette.responses import JSONResponse, Response

from agentlightning.adapter import llm_calls
from agentlightning.errors import ConfigurationError
from agentlightning.llm_proxy import LLMProxy, flush_captures
from agentlightning.llm_proxy.capabilities import Capabilities, named_in
from agentlightning.store import InMemoryLightningStore
from agentlightning.types import AttemptedRollout

MESSAGES: list[Any] = [{"role": "user", "content": "hi"}]
FIELDS = ("return_token_ids", "logprobs")


def strict(refused: set[str], status: int = 400) -> Any:
    """A backend that refuses fields, naming the first that it sees."""

    def script(payload: dict[str, Any]) -> Response:
        named = next((key for key in payload if key in refused), None)
        if named is not None:
            return JSONResponse({"error": {"message": f"extra field {named}"}}, status)
        return JSONResponse(answer(payload, 1))

    return script


async def ask(proxy: LLMProxy, attempted: AttemptedRollout, **request: Any) -> None:
    resource = proxy.as_resource(attempted.rollout_id, attempted.attempt.attempt_id)
    async with openai.AsyncOpenAI(base_url=resource.endpoint, api_key="unused", max_retries=0) as client:
        await client.chat.completions.create(model="policy", messages=MESSAGES, **request)


def sent(backend: ScriptedBackend) -> list[list[str]]:
    return [[key for key in FIELDS if key in request] for request in backend.requests]


@pytest.mark.parametrize("status", [400, 403, 422])
@pytest.mark.parametrize(
    "refused", [{"logprobs"}, {"return_token_ids"}, set(FIELDS)], ids=lambda names: "+".join(sorted(names))
)
async def test_what_is_refused_is_sent_once_and_the_rest_is_kept(
    proxy: LLMProxy, attempted: AttemptedRollout, backend: ScriptedBackend, refused: set[str], status: int
) -> None:
    backend.script = strict(refused, status)
    await ask(proxy, attempted)
    assert sent(backend)[-1] == [key for key in FIELDS if key not in refused]
    assert len(backend.requests) == 1 + len(refused)
    backend.requests.clear()
    await ask(proxy, attempted)
    assert sent(backend) == [[key for key in FIELDS if key not in refused]]


async def test_a_refusal_for_another_reason_teaches_nothing(
    proxy: LLMProxy, attempted: AttemptedRollout, backend: ScriptedBackend
) -> None:
    backend.script = lambda payload: JSONResponse({"error": {"message": f"no: {sorted(payload)}"}}, 400)
    with pytest.raises(openai.BadRequestError):
        await ask(proxy, attempted)
    backend.script = None
    await ask(proxy, attempted)
    assert sent(backend)[-1] == list(FIELDS)


@pytest.mark.parametrize("flags", [{"logprobs": False}, {"return_token_ids": False}, {}], ids=str)
async def test_a_model_is_asked_as_it_is_configured(
    store: InMemoryLightningStore, attempted: AttemptedRollout, backend: ScriptedBackend, flags: dict[str, bool]
) -> None:
    config = backend.model_config
    config["model_info"] = {"mode": "chat", **flags}
    proxy = LLMProxy(model_list=[config], store=store)
    await proxy.start()
    try:
        await ask(proxy, attempted)
        await ask(proxy, attempted, logprobs=True)
        await flush_captures({"llm": proxy.as_resource()}, attempted.rollout_id, attempted.attempt.attempt_id)
    finally:
        await proxy.stop()
    wanted = [key for key in FIELDS if flags.get(key, True)]
    assert sent(backend) == [wanted, [key for key in FIELDS if key in wanted or key == "logprobs"]]
    assert len(llm_calls(await store.query_spans(attempted.rollout_id))) == 2


async def test_what_the_agent_asks_for_is_never_taken_out(
    proxy: LLMProxy, attempted: AttemptedRollout, backend: ScriptedBackend
) -> None:
    backend.script = strict({"logprobs"})
    with pytest.raises(openai.BadRequestError):
        await ask(proxy, attempted, logprobs=True)
    assert all(request["logprobs"] is True for request in backend.requests)


def test_what_is_refused_in_streams_is_asked_for_without() -> None:
    capabilities = Capabilities()
    capabilities.learn("/chat/completions", {"stream": True}, {"logprobs"}, "b")
    assert "logprobs" not in capabilities.fields("/chat/completions", {"stream": True})
    assert "logprobs" in capabilities.fields("/chat/completions", {})
    assert "logprobs" in capabilities.fields("/completions", {"stream": True})


@pytest.mark.parametrize("status", [200, 404, 429, 500])
def test_other_answers_refuse_no_field(status: int) -> None:
    assert named_in(status, b"logprobs", ["logprobs"]) == frozenset()


@pytest.mark.parametrize("flag", ["yes", 1, None], ids=repr)
def test_a_flag_is_true_or_false(flag: object) -> None:
    entry: Any = {"model_name": "m", "litellm_params": {"model": "m", "api_base": "http://b/v1"}}
    with pytest.raises(ConfigurationError, match=r"model_info\.logprobs"):
        LLMProxy(model_list=[entry | {"model_info": {"logprobs": flag}}])
