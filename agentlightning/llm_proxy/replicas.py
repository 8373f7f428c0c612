"""The backends of one model name, and which of them a call goes to."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Sequence
from hashlib import blake2b

from agentlightning.llm_proxy.backends import Backend


class Replicas:
    """Backends that serve the same model.

    Every call of a rollout goes to the same one, which still has the conversation in its cache. By rendezvous hashing
    that needs no memory, holds in every gateway, and moves no rollout but those of a backend that goes or comes.

    Args:
        backends: At least one.
    """

    def __init__(self, backends: Sequence[Backend]) -> None:
        self.backends = tuple(backends)
        self._turns: Iterator[int] = itertools.count()

    def choose(self, rollout_id: str | None, tried: Collection[Backend] = ()) -> Backend:
        """Return the backend for a call: a healthy one that it has not tried yet, if there is one.

        Where none is healthy, any is worth a try.

        Args:
            rollout_id: Whose call it is; those of no rollout take turns.
            tried: The backends that failed at this call.
        """
        if len(self.backends) == 1:
            return self.backends[0]
        fresh = [backend for backend in self.backends if backend not in tried]
        candidates = (
            [backend for backend in fresh if not backend.health.out]
            or fresh
            or [backend for backend in self.backends if not backend.health.out]
            or list(self.backends)
        )
        if rollout_id is None:
            return candidates[next(self._turns) % len(candidates)]
        key = rollout_id.encode(errors="replace")
        return max(candidates, key=lambda backend: _weight(key, backend))


def _weight(key: bytes, backend: Backend) -> bytes:
    return blake2b(key, digest_size=8, key=backend.identity).digest()
