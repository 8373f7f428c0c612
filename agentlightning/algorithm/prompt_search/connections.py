"""What a user's client of a model holds open."""

from __future__ import annotations

import logging
from typing import Any

logger = logging.getLogger(__name__)


async def drop_connections(client: Any) -> None:
    """Close the idle connections of an OpenAI-shaped client, which opens new ones when it is used again.

    They belong to this event loop: left open, the client's next call on another loop, such as that of the next run,
    would find them dead. Only httpx's client is known to need it, whose one public way is to close for good.
    """
    transport = getattr(getattr(client, "_client", None), "_transport", None)
    if transport is None or not hasattr(transport, "aclose"):
        return
    try:
        await transport.aclose()
    except Exception:  # an agent may use the client on a loop of its own; the search has its result all the same
        logger.warning("Connections of %r could not be closed.", client, exc_info=True)
