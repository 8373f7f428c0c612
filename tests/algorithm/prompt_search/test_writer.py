from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import openai
import pytest

from agentlightning.algorithm.prompt_search import Journal, Reply, Writer
from agentlightning.errors import ConfigurationError, ModelError
from agentlightning.llm_proxy.retries import Backoff

ASKED = [{"role": "user", "content": "Write."}]


def refusal(status: int, message: str = "no", **headers: str) -> openai.APIStatusError:
    response = httpx.Response(status, headers=headers, request=httpx.Request("POST", "http://model"))
    return openai.APIStatusError(message, response=response, body=None)


def answer(text: str | None, finish: str = "stop") -> Any:
    message = SimpleNamespace(content=text)
    usage = SimpleNamespace(prompt_tokens=3, completion_tokens=2)
    return SimpleNamespace(choices=[SimpleNamespace(message=message, finish_reason=finish)], usage=usage)


class Model:
    """Gives or raises what it was told to, one after the other; the last again and again."""

    def __init__(self, *told: Any) -> None:
        self.told = list(told)
        self.calls: list[dict[str, Any]] = []
        self.running = self.most = 0
        self.slept: list[float] = []
        self.chat = SimpleNamespace(completions=self)

    async def create(self, **options: Any) -> Any:
        self.calls.append(options)
        self.running += 1
        self.most = max(self.most, self.running)
        await asyncio.sleep(0)
        self.running -= 1
        told = self.told.pop(0) if len(self.told) > 1 else self.told[0]
        if isinstance(told, Exception):
            raise told
        return told

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)

    def writer(self, journal: Journal | None = None, at_once: int = 4) -> Writer:
        backoff = Backoff(draw=lambda: 0.0, now=lambda: 0.0)
        return Writer(self, journal or Journal(None), at_once=at_once, sleep=self.sleep, backoff=backoff)


LOST = openai.APIConnectionError(request=httpx.Request("POST", "http://model"))


@pytest.mark.parametrize(
    ("failures", "slept"),
    [
        ([], []),
        ([refusal(500), refusal(429), LOST, TimeoutError()], [0.5, 1.0, 2.0, 4.0]),
        ([refusal(429, **{"retry-after": "20"})], [20.0]),
        ([refusal(429, **{"retry-after": "3600"})], [60.0]),
        ([refusal(503)] * 8, [0.5, 1.0, 2.0, 4.0, 8.0, 8.0, 8.0, 8.0]),
    ],
    ids=["none", "passing", "asked", "long", "eight"],
)
async def test_a_model_that_fails_is_asked_again_after_a_pause(
    failures: Sequence[Exception], slept: list[float]
) -> None:
    model = Model(*failures, answer("Better."))
    writer = model.writer()
    assert await writer.ask("1", "m", ASKED) == Reply("Better.", True, 3, 2)
    assert (model.slept, writer.retries, len(model.calls)) == (slept, len(slept), len(slept) + 1)


@pytest.mark.parametrize(
    ("error", "calls"), [(refusal(401), 1), (refusal(400), 1), (refusal(404), 1), (refusal(500), 9), (LOST, 9)]
)
async def test_a_model_that_does_not_answer_is_an_error_that_says_so(error: Exception, calls: int) -> None:
    model = Model(error)
    with pytest.raises(ModelError, match=f"m did not answer, asked {calls} times"):
        await model.writer().ask("1", "m", ASKED)
    assert len(model.calls) == calls


async def test_an_error_of_the_program_is_not_tried_again() -> None:
    model = Model(TypeError("create() got an unexpected keyword"))
    with pytest.raises(TypeError):
        await model.writer().ask("1", "m", ASKED)
    assert len(model.calls) == 1


async def test_a_model_that_refuses_a_temperature_has_its_own_from_then_on() -> None:
    model = Model(refusal(400, "unsupported value: temperature"), answer("Better."))
    writer = model.writer()
    for key in "ab":
        assert (await writer.ask(key, "m", ASKED, temperature=0.7)).text == "Better."
    assert ["temperature" in call for call in model.calls] == [True, False, False]
    assert (model.slept, writer.retries) == ([], 0)
    await writer.ask("c", "other", ASKED, temperature=0.7)
    assert model.calls[-1]["temperature"] == 0.7


async def test_an_answer_is_paid_for_once(tmp_path: Path) -> None:
    model = Model(answer("Better."))
    with closing(Journal(tmp_path / "j.jsonl")) as journal:
        first = await model.writer(journal).ask("1", "m", ASKED, temperature=1.0)
    with closing(Journal(tmp_path / "j.jsonl")) as journal:
        writer = model.writer(journal)
        assert await writer.ask("1", "m", ASKED, temperature=1.0) == first
        assert len(model.calls) == 1
        assert writer.replies == [first], "what it cost is counted all the same"
        await writer.ask("2", "m", ASKED, temperature=1.0)
        assert len(model.calls) == 2


@pytest.mark.parametrize(
    ("told", "reply"),
    [
        (answer(None), Reply("", True, 3, 2)),
        (answer("Bet", "length"), Reply("Bet", False, 3, 2)),
        ({"choices": [{"message": {"content": "Better."}, "finish_reason": "stop"}]}, Reply("Better.", True, 0, 0)),
    ],
    ids=["nothing", "cut", "dict"],
)
async def test_answers_of_every_shape_are_read(told: Any, reply: Reply) -> None:
    assert await Model(told).writer().ask("1", "m", ASKED) == reply


@pytest.mark.parametrize(
    "told",
    [
        SimpleNamespace(choices=None, error={"code": 429, "message": "slow down"}),
        {"choices": [{"message": {"content": "cut sh"}}], "error": {"message": "slow down"}},
        {"choices": []},
    ],
    ids=["error", "error beside", "no choice"],
)
async def test_an_error_with_status_200_is_no_answer(told: Any) -> None:
    model = Model(told, answer("Better."))
    journal = Journal(None)
    writer = model.writer(journal)
    assert (await writer.ask("1", "m", ASKED)).text == "Better."
    assert (model.slept, writer.retries) == ([0.5], 1)
    said = "slow down" if "error" in str(told) else "no choices"
    with pytest.raises(ModelError, match=said):
        await Model(told).writer(journal).ask("2", "m", ASKED)


async def test_no_more_calls_are_made_at_once_than_allowed() -> None:
    model = Model(answer("Better."))
    writer = model.writer(at_once=3)
    await asyncio.gather(*(writer.ask(str(number), "m", ASKED) for number in range(10)))
    assert (model.most, len(model.calls)) == (3, 10)


async def test_a_client_that_blocks_is_refused() -> None:
    client = SimpleNamespace(chat=SimpleNamespace(completions=SimpleNamespace(create=lambda **_: answer("now"))))
    with pytest.raises(ConfigurationError, match="asynchronous"):
        await Writer(client, Journal(None), at_once=1).ask("1", "m", ASKED)
