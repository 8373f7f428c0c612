"""Transcripts to imitate: the pointer-lookup agent's conversations, done right or only half right."""

from __future__ import annotations

import random
from typing import Any, Final

from agentlightning.demo.world import Task, lookup, solution

Message = dict[str, Any]

_ANSWER_AT_ONCE: Final = 0.52
_STOP_AFTER_ONE_LOOKUP: Final = 0.25


def clean_transcript(task: Task) -> list[Message]:
    """Follow every pointer, then answer."""
    return _transcript(task, task["hops"], solution(task))


def weak_transcript(task: Task, rng: random.Random) -> list[Message]:
    """Do what a poor agent does: 52 % guess at once, 25 % stop after one lookup, 23 % do it right.

    Who stops after one lookup answers what it found, or guesses if that was only a pointer.
    """
    guess = f"The value is {rng.randrange(100):02d}."
    habit = rng.random()
    if habit < _ANSWER_AT_ONCE:
        return _transcript(task, 0, guess)
    if habit < _ANSWER_AT_ONCE + _STOP_AFTER_ONE_LOOKUP and task["hops"] > 1:
        return _transcript(task, 1, guess)
    return clean_transcript(task)


def _transcript(task: Task, lookups: int, answer: str) -> list[Message]:
    messages: list[Message] = [{"role": "user", "content": task["question"]}]
    key = task["question"].removeprefix("What is the value of ").removesuffix("?")
    for _ in range(lookups):
        found = lookup(task, key)
        call = {"type": "function", "function": {"name": "lookup", "arguments": {"key": key}}}
        messages.append({"role": "assistant", "content": None, "tool_calls": [call]})
        messages.append({"role": "tool", "content": found})
        key = found.removeprefix("same as ")
    messages.append({"role": "assistant", "content": answer})
    return messages
