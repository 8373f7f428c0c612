"""Continuous batching: requests join and leave one running batch, in a thread of its own."""

from __future__ import annotations

import asyncio
import logging
import random
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Self, TypeVar, cast

import torch
from transformers import PreTrainedModel

from agentlightning.errors import InvalidRequest, ModelError, PromptTooLong
from agentlightning.inference.batch import Batch
from agentlightning.inference.decoder import Decoder
from agentlightning.inference.loop_event import LoopEvent, set_all
from agentlightning.inference.request import Request
from agentlightning.inference.sampler import Completion, CompletionPart, SamplingParams
from agentlightning.inference.scoring import score
from agentlightning.inference.tokenizer import Tokenizer

logger = logging.getLogger(__name__)

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class EngineStats:
    """Counters since the engine was made.

    Attributes:
        requests: Requests admitted to the batch.
        reused_tokens: Tokens of prompts that did not have to be computed.
        generated_tokens: Tokens sampled.
        decode_steps: Forward passes over the running batch.
        running: Rows in the batch now.
        waiting: Requests not yet in the batch.
    """

    requests: int
    reused_tokens: int
    generated_tokens: int
    decode_steps: int
    running: int
    waiting: int


class Engine:
    """Samples from a decoder-only transformers model for many callers at once.

    Callers may be on any event loop of any thread; the model runs in the engine's own thread. A learner needs a copy
    of the model of its own.

    Args:
        model: A decoder with full attention, in float32 or bfloat16. The engine owns it from now on.
        tokenizer: Needed only for stop strings.
        max_batch_size: Most rows that decode together; further requests wait.
        kept_bytes: Most memory for keys and values of complete answers. A prompt that begins with the tokens of one,
            as a conversation's next turn does, goes on from there; new weights empty it.
        device: Where to run; None leaves the model where it is.

    Raises:
        UnsupportedModel: The engine cannot run this architecture.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: Tokenizer | None = None,
        *,
        max_batch_size: int = 64,
        kept_bytes: int = 256 * 2**20,
        device: torch.device | str | None = None,
    ) -> None:
        self._decoder = Decoder(model, device)
        self._tokenizer = tokenizer
        self._max_batch_size = max_batch_size
        self._end_token_ids = _end_token_ids(model, tokenizer)
        self._kept_bytes = kept_bytes
        self._batch = Batch(self._decoder, kept_bytes)
        self._waiting: deque[Request] = deque()
        self._changed: list[LoopEvent] = []  # of the streams that have news
        self._generator = random.Random()
        self._weights_version = 0
        self._requests = self._reused = self._tokens = self._steps = 0
        self._inbox: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    @property
    def context_length(self) -> int:
        """Most tokens of prompt and answer together."""
        return self._decoder.context_length

    @property
    def end_token_ids(self) -> frozenset[int]:
        """The tokens that end an answer: the model's and the tokenizer's."""
        return self._end_token_ids

    @property
    def weights_version(self) -> int:
        """Version of the weights in use; 0 until the first update."""
        return self._weights_version

    def stats(self) -> EngineStats:
        """Return the counters."""
        return EngineStats(
            requests=self._requests,
            reused_tokens=self._reused + self._batch.reused_tokens,
            generated_tokens=self._tokens,
            decode_steps=self._steps,
            running=len(self._batch.rows),
            waiting=len(self._waiting),
        )

    def start(self) -> None:
        """Start the engine's thread; does nothing if it runs."""
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="agl-engine", daemon=True)
                self._thread.start()

    def stop(self, timeout: float = 30.0) -> None:
        """End the thread after the present step; requests that are not complete fail with `ModelError`.

        Args:
            timeout: Seconds to wait for the thread.

        Raises:
            ModelError: The thread did not end in time.
        """
        with self._lock:
            thread, self._thread = self._thread, None
            if thread is None:
                return
            self._inbox.put(None)
        thread.join(timeout)
        if thread.is_alive():
            raise ModelError(f"the engine's thread did not end within {timeout:g} s: a forward pass takes longer")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    async def generate(self, prompt_token_ids: Sequence[int], params: SamplingParams) -> Completion:
        """Sample one answer; a cancelled caller's row leaves the batch at the next step.

        Raises:
            PromptTooLong: No token fits behind the prompt.
            InvalidRequest: The prompt is empty or has tokens that the model does not know, or stop strings are
                given to an engine without tokenizer.
            ModelError: The engine was stopped, or the model failed.
        """
        request = self._new_request(prompt_token_ids, params)
        self._put(partial(self._waiting.append, request))
        return await asyncio.wrap_future(request.future)

    async def stream(self, prompt_token_ids: Sequence[int], params: SamplingParams) -> AsyncGenerator[CompletionPart]:
        """Sample one answer and yield it part by part, as `generate` would return it.

        A part holds what was sampled since the last one was taken. When the generator is closed, the row leaves the
        batch at the next step.

        Raises:
            PromptTooLong: See `generate`; the errors below, too.
            InvalidRequest: See there.
            ModelError: See there.
        """
        request = self._new_request(prompt_token_ids, params)
        changed = LoopEvent()
        request.watch(partial(self._changed.append, changed))
        self._put(partial(self._waiting.append, request))
        sampled, finish_reason = 0, None
        try:
            while finish_reason is None:
                await changed.wait()
                part = request.part(sampled)
                sampled, finish_reason = sampled + len(part.token_ids), part.finish_reason
                if part.token_ids or finish_reason is not None:
                    yield part
        finally:
            request.future.cancel()

    async def score(self, token_ids: Sequence[Sequence[int]]) -> list[list[float]]:
        """Return each token's log-probability at temperature 1 given those before it; 0.0 for a first token.

        Raises:
            PromptTooLong: A sequence is longer than the context.
            InvalidRequest: A sequence is empty or has tokens that the model does not know.
            ModelError: The engine was stopped, or the model failed.
        """
        for sequence in token_ids:
            self._check_tokens(sequence, self.context_length)
        return await self._call(partial(score, self._decoder, token_ids))

    async def update_weights(self, state_dict: Mapping[str, torch.Tensor], version: int) -> None:
        """Replace the weights between two decode steps.

        Answers that are being sampled go on with the new weights over keys and values of the old ones; their
        `weights_versions` show where. The tensors are copied before this returns and may be changed afterwards.

        Args:
            state_dict: A tensor for every weight; see `Decoder.load`.
            version: What completions carry from now on.

        Raises:
            ModelError: The weights do not fit the model, or the engine was stopped.
        """

        def update() -> None:
            self._batch.forget()
            self._decoder.load(state_dict)
            self._weights_version = version

        await self._call(update)

    def _new_request(self, prompt: Sequence[int], params: SamplingParams) -> Request:
        self._check_tokens(prompt, self.context_length - 1)
        if params.stop and self._tokenizer is None:
            raise InvalidRequest("stop strings need Engine(..., tokenizer=...); use stop_token_ids instead")
        return Request(
            prompt,
            params,
            room=self.context_length - len(prompt),
            end_token_ids=self._end_token_ids,
            generator=self._generator if params.seed is None else random.Random(params.seed),
            tokenizer=self._tokenizer,
        )

    def _check_tokens(self, token_ids: Sequence[int], longest: int) -> None:
        if not token_ids:
            raise InvalidRequest("the prompt has no tokens")
        if len(token_ids) > longest:
            raise PromptTooLong(
                f"the prompt has {len(token_ids)} tokens, but the model's context of {self.context_length} tokens "
                f"has room for at most {longest}; shorten the messages"
            )
        if min(token_ids) < 0 or max(token_ids) >= self._decoder.vocab_size:
            raise InvalidRequest(f"token ids must be from 0 to {self._decoder.vocab_size - 1}")

    async def _call(self, work: Callable[[], Result]) -> Result:
        """Run `work` in the engine's thread, between two steps."""
        future: Future[Result] = Future()
        self._put(partial(_resolve, future, work))
        return await asyncio.wrap_future(future)

    def _put(self, command: Callable[[], None]) -> None:
        # Under the lock that `stop` takes, so that no command is left behind its end mark.
        with self._lock:
            if self._thread is None:
                raise ModelError("the engine is not running; call start() first")
            self._inbox.put(command)

    def _run(self) -> None:
        while True:
            idle = not self._batch.rows and not self._waiting
            while idle or not self._inbox.empty():
                command = self._inbox.get()
                if command is None:
                    self._fail_all(ModelError("the engine was stopped before the answer was complete"))
                    return
                command()
                idle = False
            try:
                self._advance()
            except Exception as error:  # whatever the model raises, its requests end and later ones are served
                logger.exception("the model failed; the requests in its batch end with an error")
                self._fail_all(ModelError(f"the model failed: {type(error).__name__}: {error}"))

    def _advance(self) -> None:
        """Admit what waits, then sample one token for every row."""
        self._batch.drop_done()
        self._admit()
        if self._batch.rows:
            self._tokens += len(self._batch.rows)
            self._steps += 1
            self._batch.step(self._weights_version)
            self._announce()

    def _admit(self) -> None:
        free = self._max_batch_size - len(self._batch.rows)
        admitted: list[Request] = []
        while self._waiting and len(admitted) < free:
            request = self._waiting.popleft()
            if not request.done:
                admitted.append(request)
        if not admitted:
            return
        self._requests += len(admitted)
        self._tokens += len(admitted)
        try:
            self._batch.join(admitted, self._weights_version)
        except Exception:
            self._waiting.extendleft(admitted)  # so that they fail with the rest
            raise
        self._announce()

    def _announce(self) -> None:
        if self._changed:
            set_all(self._changed)
            self._changed.clear()

    def _fail_all(self, error: ModelError) -> None:
        for request in (*self._batch.rows, *self._waiting):
            request.fail(error)
        self._waiting.clear()
        self._announce()
        self._reused += self._batch.reused_tokens
        self._batch = Batch(self._decoder, self._kept_bytes)


def _resolve(future: Future[Result], work: Callable[[], Result]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(work())
    except Exception as error:  # noqa: BLE001  # handed to the caller, who waits for it
        future.set_exception(error)


def _end_token_ids(model: PreTrainedModel, tokenizer: Tokenizer | None) -> frozenset[int]:
    """The tokens that end an answer, as the generation config, the config and the tokenizer name them."""
    sources: tuple[Any, ...] = (getattr(model, "generation_config", None), model.config, tokenizer)
    ids: set[int] = set()
    for source in sources:
        value = getattr(source, "eos_token_id", None)
        ids.update(cast("list[int]", value) if isinstance(value, list) else [] if value is None else [value])
    return frozenset(ids)
