"""One model call as a triplet, under the keys that v0.3 uses."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, cast

from agentlightning.adapter.rewards import Credit, GivenReward
from agentlightning.adapter.selection import TracedCall
from agentlightning.types import LLMCall, Triplet
from agentlightning.types.chat_shape import load_list

ANY_AGENT: Final = "*"
"""Stands for the agent where no span names one."""

RECORDED_REWARD: Final = ("rewards", "reward_rule")
"""The keys of `metadata` that say where a reward is from."""


def to_triplets(
    calls: Iterable[TracedCall], credit: Credit, make: Callable[[LLMCall, str], Triplet] | None = None
) -> list[Triplet]:
    """Return a triplet for each answer, in order; the first answer to a request carries the request's reward."""
    make = make or call_to_triplet
    triplets: list[Triplet] = []
    for index, call in enumerate(calls):
        answers = [make(answer, call.agent or ANY_AGENT) for answer in call.answers]
        if index in credit.given:
            _set_reward(answers[0], credit.given[index])
        triplets += answers
    return triplets


def _set_reward(triplet: Triplet, given: GivenReward) -> None:
    triplet.reward = given.reward.value
    triplet.metadata |= {"rewards": given.reward.dimensions, "reward_rule": given.rule.value}


def call_to_triplet(call: LLMCall, agent: str) -> Triplet:
    """Return a call as `prompt` and `response`, each with `token_ids` and `raw_content`, and what is known besides.

    `prompt` has `image_urls` too, `response` has `logprobs` where they are known, an entry with `logprob` per token.
    `metadata` has `request` without the messages, `response` without the answer, `response_id` and `agent_name`.
    """
    answer = call.message | ({"finish_reason": call.finish_reason} if call.finish_reason else {})
    response: dict[str, Any] = {"token_ids": [*call.response_token_ids], "raw_content": [answer]}
    if call.response_logprobs is not None:
        response["logprobs"] = [{"logprob": logprob} for logprob in call.response_logprobs]
    request = {"model": call.model, **call.sampling} | ({"tools": call.tools} if call.tools else {})
    return Triplet(
        prompt={
            "token_ids": [*call.prompt_token_ids],
            "raw_content": call.messages,
            "image_urls": prompt_image_urls(call.messages),
        },
        response=response,
        metadata={
            "request": request,
            "response": call.response,
            "response_id": call.response_id,
            "agent_name": agent,
        },
    )


def prompt_image_urls(raw_content: Any) -> list[str]:
    """Return the URLs of all images in messages, in order.

    The messages are a list, or a mapping with their indexes as keys, or one message; contents may be JSON texts.
    """
    return [url for message in _messages(raw_content) for url in _image_urls(message.get("content"))]


def _messages(raw_content: Any) -> list[dict[str, Any]]:
    if isinstance(raw_content, dict):
        by_key = cast("dict[str, Any]", raw_content)
        indexes = sorted((key for key in by_key if key.isdecimal()), key=int)
        raw_content = [by_key[key] for key in indexes] if indexes else [by_key]
    if not isinstance(raw_content, list):
        return []
    return [cast("dict[str, Any]", each) for each in cast("list[Any]", raw_content) if isinstance(each, dict)]


def _image_urls(content: Any) -> Iterator[str]:
    if isinstance(content, str) and "image_url" in content:
        content = load_list(content)  # empty for a text that only speaks of image_url
    for part in cast("list[Any]", content) if isinstance(content, list) else []:
        fields = cast("dict[str, Any]", part) if isinstance(part, dict) else {}
        image = fields.get("image_url")
        url = cast("dict[str, Any]", image).get("url") if isinstance(image, dict) else None
        if fields.get("type") == "image_url" and isinstance(url, str):
            yield url
