"""One answer while it is sampled."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from concurrent.futures import Future

from agentlightning.inference.sampler import Completion, CompletionPart, FinishReason, SamplingParams
from agentlightning.inference.tokenizer import Tokenizer, decode_exactly


class Request:
    """A prompt, the tokens sampled so far, and the future that gets the completion.

    Args:
        prompt: The tokens of the prompt.
        params: How to sample.
        room: Most tokens that fit behind the prompt.
        end_token_ids: The model's own end tokens.
        generator: Gives the numbers that tokens are drawn with.
        tokenizer: Decodes the answer's end to look for stop strings; needed only when there are any.
    """

    def __init__(
        self,
        prompt: Sequence[int],
        params: SamplingParams,
        room: int,
        end_token_ids: frozenset[int],
        generator: random.Random,
        tokenizer: Tokenizer | None,
    ) -> None:
        self.prompt = prompt
        self.params = params
        self.future: Future[Completion] = Future()
        self.token_ids: list[int] = []
        self.draw = generator.random
        self.finish_reason: FinishReason | None = None
        self.outdated = False  # whether other weights than the present ones have read some of the tokens
        self._changed: Callable[[], None] | None = None
        self._logprobs: list[float] = []
        self._versions: list[int] = []
        self._limit = min(room, params.max_tokens or room)
        self._end_token_ids = end_token_ids.union(params.stop_token_ids)
        self._tokenizer = tokenizer
        # Every token that adds text adds at least a byte, so no stop string reaches further back.
        self._window = max((len(stop.encode()) for stop in params.stop), default=0)

    def watch(self, changed: Callable[[], None]) -> None:
        """Let `changed` be called, in the engine's thread, when there are more tokens or there is an end."""
        self._changed = changed

    def part(self, start: int) -> CompletionPart:
        """Return what there is from token `start` on; any thread may call it.

        Raises:
            ModelError: The request failed.
        """
        reason = self.finish_reason  # first: with it, the tokens are complete
        if reason is None and self.future.done():
            self.future.result()
        stop = len(self._versions)  # the list that grows last
        return CompletionPart(
            token_ids=self.token_ids[start:stop],
            logprobs=self._logprobs[start:stop],
            finish_reason=reason,
            weights_versions=self._versions[start:stop],
        )

    @property
    def done(self) -> bool:
        """Whether the row may leave the batch: the answer is complete, failed or no longer wanted."""
        return self.finish_reason is not None or self.future.done()

    def accept(self, token_id: int, logprob: float, version: int) -> None:
        """Append a sampled token; resolves the future if it is the last one."""
        self.token_ids.append(token_id)
        self._logprobs.append(logprob)
        self._versions.append(version)
        if token_id in self._end_token_ids or (self._window and self._stop_string_appeared()):
            self._finish("stop")
        elif len(self.token_ids) >= self._limit:
            self._finish("length")
        if self._changed is not None:
            self._changed()

    def fail(self, error: Exception) -> None:
        """End the request with an error, unless it is complete or cancelled."""
        if not self.done and self.future.set_running_or_notify_cancel():
            self.future.set_exception(error)
            if self._changed is not None:
                self._changed()

    def _finish(self, reason: FinishReason) -> None:
        self.finish_reason = reason
        # False if the caller has cancelled: nobody waits for the answer.
        if self.future.set_running_or_notify_cancel():
            self.future.set_result(
                Completion(
                    token_ids=self.token_ids,
                    logprobs=self._logprobs,
                    finish_reason=reason,
                    weights_versions=self._versions,
                )
            )

    def _stop_string_appeared(self) -> bool:
        assert self._tokenizer is not None
        tail = decode_exactly(self._tokenizer, self.token_ids[-self._window :])
        return any(stop in tail for stop in self.params.stop)
