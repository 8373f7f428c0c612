"""WeaveTracer: a name of v0.3 that says what replaces it."""

from __future__ import annotations

from typing import Any

from agentlightning.errors import ConfigurationError
from agentlightning.tracer.base import Tracer


class WeaveTracer(Tracer):
    """Cannot record: Weave hands its calls to a W&B server only, and to nothing in the process.

    v0.3 put a server of its own into Weave's place, through modules that Weave does not have any more.

    Raises:
        ConfigurationError: Always; it says what to use.
    """

    def __init__(
        self,
        *,
        project_name: str | None = None,
        weave_user_settings: Any = None,
        instrument_managed: bool = True,
    ) -> None:
        raise ConfigurationError(
            "WeaveTracer works with no version of weave since 0.54, which has no trace server in the process: use "
            "OtelTracer, which records the same SDKs, and agentlightning.operation in the place of weave.op"
        )
