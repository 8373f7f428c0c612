"""A call's way to an answer: which backend, how often, and how long."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

from agentlightning.errors import BackendTimeout, BackendUnreachable, ModelError
from agentlightning.llm_proxy.backends import Backend
from agentlightning.llm_proxy.health import Prober
from agentlightning.llm_proxy.hold import Gate
from agentlightning.llm_proxy.replicas import Replicas
from agentlightning.llm_proxy.reply import EventStream, Reply
from agentlightning.llm_proxy.retries import Backoff, is_passing

Work = Callable[[Backend], Awaitable[Reply | EventStream]]


@dataclass(slots=True)
class Trail:
    """The backends that a call was sent to, in order, each as often as it was, and the last one's weights."""

    tried: list[Backend] = field(default_factory=list[Backend])
    weights_version: int | None = None

    def add(self, backend: Backend) -> None:
        """Take note of a backend, and of its weights, that is about to be asked."""
        self.tried.append(backend)
        self.weights_version = backend.weights_version

    def mark(self, answer: Reply | EventStream) -> Reply | EventStream:
        """Return the answer with the last backend and the number of retries, also if it is the gateway's own."""
        retries = len(self.tried) - 1
        if isinstance(answer, EventStream):
            answer.retries, answer.weights_version = retries, self.weights_version
            return answer
        if retries < 0 or (retries == 0 and answer.backend is not None and self.weights_version is None):
            return answer
        return replace(answer, backend=self.tried[-1].name, retries=retries, weights_version=self.weights_version)


class Dispatcher:
    """Gets calls answered.

    Args:
        prober: Asks backends that are left out whether they are back.
        gate: Where calls wait that are held; a call is counted there while a backend works on it.
        timeout: Seconds until a call is answered or its stream begins, with all its retries.
        num_retries: How often a call is made again.
        backoff: How long to wait before.
        sleep: Waits for some seconds.
    """

    def __init__(
        self,
        prober: Prober,
        gate: Gate,
        timeout: float,
        num_retries: int,
        backoff: Backoff | None = None,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._prober = prober
        self._gate = gate
        self._timeout = timeout
        self._num_retries = num_retries
        self._backoff = backoff or Backoff()
        self._sleep = sleep

    async def answer(
        self, replicas: Replicas, rollout_id: str | None, work: Work, trail: Trail, *, repeatable: bool = True
    ) -> Reply | EventStream:
        """Return a backend's answer, which may be its error.

        Args:
            replicas: Who may answer.
            rollout_id: Whose call it is, or None.
            work: Makes the call.
            trail: Is told where the call was sent, also if no answer comes of it.
            repeatable: Whether the call may be made more than once.

        Raises:
            BackendUnreachable: Nobody answers.
            BackendTimeout: No answer in time.
        """
        retries = self._num_retries if repeatable else 0
        limit = asyncio.timeout(self._timeout)
        try:
            async with limit:
                return await self._until_answered(replicas, rollout_id, work, trail, retries, limit)
        except TimeoutError as error:
            if not limit.expired():
                raise
            backend = trail.tried[-1]
            timeout = BackendTimeout(f"{backend.name} gave no answer within {self._timeout:g} s")
            self._note(backend, timeout)
            raise timeout from error

    async def _until_answered(
        self,
        replicas: Replicas,
        rollout_id: str | None,
        work: Work,
        trail: Trail,
        retries: int,
        limit: asyncio.Timeout,
    ) -> Reply | EventStream:
        while True:
            backend = replicas.choose(rollout_id, trail.tried)
            trail.add(backend)
            last = len(trail.tried) > retries
            try:
                answer = await work(backend)
                if isinstance(answer, EventStream) and retries:
                    await answer.begin()
            except (BackendUnreachable, BackendTimeout) as error:
                self._note(backend, error)
                if last or isinstance(error, BackendTimeout) or not await self._wait(replicas, trail, {}, limit):
                    raise
                continue
            if isinstance(answer, EventStream):
                answer.on_end = partial(self._note, backend)
                return answer
            self._note_status(backend, answer.status)
            if last or not is_passing(answer.status) or not await self._wait(replicas, trail, answer.headers, limit):
                return answer

    async def _wait(self, replicas: Replicas, trail: Trail, headers: Mapping[str, str], limit: asyncio.Timeout) -> bool:
        """Wait before a call is made again; False if the backend, or the call, has not the time."""
        # Somebody else, who may have time now, is asked at once.
        elsewhere = any(not backend.health.out and backend not in trail.tried for backend in replicas.backends)
        seconds = 0.0 if elsewhere else self._backoff.seconds(len(trail.tried) - 1, headers)
        end = limit.when()
        if seconds is None or (end is not None and asyncio.get_running_loop().time() + seconds >= end):
            return False
        if elsewhere and not self._gate.closed:
            return True
        # No backend works on the call meanwhile: whoever drains need not wait for it, and it goes on as others do.
        self._gate.leave()
        try:
            if not elsewhere:
                await self._sleep(seconds)
            return not self._gate.closed or await self._held(limit)
        finally:
            self._gate.enter()

    async def _held(self, limit: asyncio.Timeout) -> bool:
        """Wait at the gate, which takes nothing of the call's time; False if that is too long."""
        loop, end = asyncio.get_running_loop(), limit.when()
        left = None if end is None else end - loop.time()
        limit.reschedule(None)
        while self._gate.closed:
            if not await self._gate.opens(self._gate.patience):
                return False
        limit.reschedule(None if left is None else loop.time() + left)
        return True

    def _note_status(self, backend: Backend, status: int) -> None:
        if status < 500:
            backend.health.succeed()
        elif backend.health.fail():
            self._prober.watch(backend)

    def _note(self, backend: Backend, failure: ModelError | None) -> None:
        """Take note of how a call, or the rest of its stream, ended."""
        if failure is None:
            backend.health.succeed()
        elif backend.health.fail(silent=isinstance(failure, BackendTimeout)):
            self._prober.watch(backend)
