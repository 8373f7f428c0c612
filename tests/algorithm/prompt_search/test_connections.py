from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest
from openai import AsyncOpenAI

from agentlightning.algorithm.prompt_search.connections import drop_connections
from agentlightning.doctor import ScriptedModel


def test_a_client_serves_one_run_after_another_each_on_its_own_event_loop() -> None:
    async def ask(client: AsyncOpenAI) -> list[str | None]:
        questions = [
            client.chat.completions.create(model="m", messages=[{"role": "user", "content": "?"}]) for _ in range(3)
        ]
        answers = await asyncio.gather(*questions)
        await drop_connections(client)
        return [answer.choices[0].message.content for answer in answers]

    with ScriptedModel(["yes"]) as model:
        client = AsyncOpenAI(base_url=model.url, api_key="unused", max_retries=0)
        assert [asyncio.run(ask(client)) for _ in range(2)] == [["yes"] * 3] * 2


@pytest.mark.parametrize("client", [None, object(), lambda: None], ids=["none", "object", "function"])
async def test_other_clients_are_left_alone(client: object) -> None:
    await drop_connections(client)


async def test_connections_that_cannot_be_closed_are_named_and_do_not_end_a_run(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Elsewhere:
        async def aclose(self) -> None:
            raise RuntimeError("attached to a different loop")

    client = SimpleNamespace(_client=SimpleNamespace(_transport=Elsewhere()))
    await drop_connections(client)
    assert "could not be closed" in caplog.text
