"""What the calls of one attempt read and answered so far: which row a prompt extends, and which one it left."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from agentlightning.adapter.prefix_break import PrefixBreak, answer_key, are_other_agents, classify
from agentlightning.adapter.prefix_index import PrefixIndex, common_length, packed
from agentlightning.types import LLMCall


@dataclass(frozen=True, slots=True)
class _Placed:
    """A call in its row, whose tokens up to the end of the answer are the call's."""

    call: LLMCall
    row: int

    @property
    def tokens(self) -> bytes:
        return packed(self.call.prompt_token_ids) + packed(self.call.response_token_ids)

    def answered_at(self, position: int) -> bool:
        return 0 <= position - len(self.call.prompt_token_ids) < len(self.call.response_token_ids)


class AttemptHistory:
    """The calls of one attempt, in rows."""

    def __init__(self) -> None:
        self._rows: PrefixIndex[int] = PrefixIndex()
        self._by_prompt: PrefixIndex[_Placed] = PrefixIndex()
        self._by_answer: dict[tuple[str, str, str], _Placed] = {}

    def place(self, call: LLMCall, new_row: int) -> tuple[int, PrefixBreak | None]:
        """Put a call into the longest row that its prompt starts with, or into a new one.

        Returns:
            The row, and for a new one how the prompt left the row it went on from; None when it went on from none.
        """
        prompt = packed(call.prompt_token_ids)
        extended = self._rows.take_longest_prefix(prompt)
        broken = self._find_break(call, prompt) if extended is None else None
        placed = _Placed(call, new_row if extended is None else extended)
        self._rows.add(prompt + packed(call.response_token_ids), placed.row)
        self._by_prompt.add(prompt, placed)
        if call.messages:
            self._by_answer[answer_key(call.messages[-1], call.message)] = placed
        return placed.row, broken

    def _find_break(self, call: LLMCall, prompt: bytes) -> PrefixBreak | None:
        """Find the answer in which the prompt leaves the rows it follows longest, else the last its messages hold."""
        position = self._rows.longest_common(prompt)
        left = next(self._left_in_answer(call, prompt, position), None)
        if left is not None:
            return classify(call, left.call, row=left.row, position=position, in_answer=True)
        held = self._last_held_answer(call)
        if held is None or are_other_agents(call, held.call) or prompt.startswith(held.tokens):
            return None
        position = common_length(prompt, held.tokens)
        return classify(call, held.call, row=held.row, position=position, in_answer=held.answered_at(position))

    def _left_in_answer(self, call: LLMCall, prompt: bytes, position: int) -> Iterator[_Placed]:
        """Return the calls in whose answers stands the first token that the prompt shares with no row."""
        if position == len(call.prompt_token_ids):
            return
        for placed in self._by_prompt.prefixes(prompt, position):
            if placed.answered_at(position) and common_length(prompt, placed.tokens) == position:
                yield placed

    def _last_held_answer(self, call: LLMCall) -> _Placed | None:
        messages = call.messages
        for index in range(len(messages) - 1, 0, -1):
            if messages[index].get("role") == "assistant":
                held = self._by_answer.get(answer_key(messages[index - 1], messages[index]))
                if held is not None:
                    return held
        return None
