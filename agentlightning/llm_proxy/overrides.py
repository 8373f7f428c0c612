"""Sampling parameters that the gateway sets, whatever the agent asks for, by the mode of its rollout."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, Final, get_args

from agentlightning.errors import ConfigurationError
from agentlightning.store.base import LightningStore
from agentlightning.types import RolloutMode

logger = logging.getLogger(__name__)

_MODES: Final = frozenset(get_args(RolloutMode))
_NO_SAMPLING: Final = frozenset(
    {"model", "messages", "prompt", "stream", "stream_options", "tools", "return_token_ids"}
)
_REMEMBERED: Final = 10_000
_PATIENCE_SECONDS: Final = 2.0
_AWAY_SECONDS: Final = 5.0
"""How long no call waits for a store that gave no mode: it would go out as it came all the same, but late."""
_ONE_NAME: Final = frozenset({"max_tokens", "max_completion_tokens"})
"""Names of one parameter; of two in a request, backends take the one or the other."""

Json = dict[str, Any]
ByMode = Mapping[RolloutMode, Mapping[str, Any]]


class SamplingOverrides:
    """Knows what is to be set in the calls of a rollout.

    Args:
        by_mode: The parameters, in the words of Chat Completions, by the mode in which they hold.
        get_store: Returns the store, which knows a rollout's mode where the URL does not name it.
        clock: Returns seconds that never go back.

    Raises:
        ConfigurationError: An unknown mode, or what is no parameter of sampling.
    """

    def __init__(
        self,
        by_mode: ByMode,
        get_store: Callable[[], LightningStore],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._by_mode: dict[str, Json] = {mode: _checked(mode, values) for mode, values in by_mode.items() if values}
        self._get_store = get_store
        self._clock = clock
        self._modes: OrderedDict[str, str | None] = OrderedDict()
        self._away_until = -math.inf

    async def of(self, path: str, rollout_id: str | None) -> Json:
        """Return what to set in a call: nothing where nothing is configured, or nobody knows the mode.

        Args:
            path: The path of the URL that was called.
            rollout_id: Whose call it is, or None.
        """
        if not self._by_mode or rollout_id is None:
            return {}
        mode = path.split("/")[7] if path.startswith("/proxy/") else await self._mode_of(rollout_id)
        return self._by_mode.get(mode or "", {})

    async def _mode_of(self, rollout_id: str) -> str | None:
        if rollout_id in self._modes:
            self._modes.move_to_end(rollout_id)
            return self._modes[rollout_id]
        if self._clock() < self._away_until:
            return None
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                rollout = await self._get_store().get_rollout_by_id(rollout_id)
        except Exception as error:  # noqa: BLE001  # any store may fail in any way, and no model call may fail of it
            self._away_until = self._clock() + _AWAY_SECONDS
            logger.warning(
                "a call of rollout %s is sent as it came, for its mode is not known; so is every other call of an "
                "unknown mode in the next %g s: %r",
                rollout_id,
                _AWAY_SECONDS,
                error,
            )
            return None
        self._modes[rollout_id] = mode = None if rollout is None else rollout.mode
        if len(self._modes) > _REMEMBERED:
            self._modes.popitem(last=False)
        return mode


def override(request: Json, overrides: Json) -> None:
    """Set parameters in a request, in the place of what it says of them under whatever name."""
    if _ONE_NAME & overrides.keys():
        for name in _ONE_NAME - overrides.keys():
            request.pop(name, None)
    request.update(overrides)


def _checked(mode: str, values: Mapping[str, Any]) -> Json:
    if mode not in _MODES:
        raise ConfigurationError(f"sampling_overrides has {mode!r}, but the modes of rollouts are {sorted(_MODES)}")
    wrong = sorted(_NO_SAMPLING & values.keys())
    if wrong:
        raise ConfigurationError(f"sampling_overrides[{mode!r}] has {wrong}, which is not about sampling: leave it out")
    if values.keys() >= _ONE_NAME:
        raise ConfigurationError(f"sampling_overrides[{mode!r}] has both of {sorted(_ONE_NAME)}: leave one out")
    try:
        return json.loads(json.dumps(dict(values), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"sampling_overrides[{mode!r}] cannot be sent as JSON: {error}") from error
