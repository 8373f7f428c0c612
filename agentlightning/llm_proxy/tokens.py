"""Who may ask the gateway for what: agents their own attempt, runners every attempt, administrators everything.

The tokens are the store's, see `agentlightning.store.tokens`, so that one token is enough for an agent.
"""

from __future__ import annotations

import re
from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

from agentlightning.errors import AgentLightningError, Forbidden
from agentlightning.llm_proxy.answers import refusal, response_of
from agentlightning.llm_proxy.control_routes import CONTROL_PATHS
from agentlightning.llm_proxy.dialects import messages
from agentlightning.llm_proxy.dialects.protocols import refusal_in
from agentlightning.store.access import check_role
from agentlightning.store.tokens import Caller, check_secret, presented_in, verify

_ATTEMPT: Final = re.compile(r"(?:/proxy)?/rollout/([^/]+)/attempt/([^/]+)/|/api/rollouts/([^/]+)/attempt/([^/]+)/")
_OPEN: Final = frozenset({"/health"})
_CREDENTIALS: Final = frozenset({b"authorization", b"x-api-key"})


class TokenCheck:
    """Lets those through who have a token for what they ask, and keeps the token from whoever is behind.

    Args:
        app: The gateway's app.
        secret: What all tokens follow from.

    Raises:
        ConfigurationError: The secret cannot be one.
    """

    def __init__(self, app: ASGIApp, secret: str) -> None:
        check_secret(secret)
        self._app = app
        self._secret = secret

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; see ASGI."""
        path: str = scope["path"]
        if path not in _OPEN:
            try:
                caller = verify(self._secret, presented_in(dict(scope["headers"])))
                _check(caller, path)
            except AgentLightningError as error:
                await _refuse(path, error)(scope, receive, send)
                return
        headers = [(key, value) for key, value in scope["headers"] if key not in _CREDENTIALS]
        await self._app({**scope, "headers": headers}, receive, send)


def _check(caller: Caller, path: str) -> None:
    """Refuse what is not the caller's.

    Raises:
        Forbidden: It is another's.
    """
    if path in CONTROL_PATHS:
        check_role(caller, "admin", path)
    if caller.role != "agent":
        return
    found = _ATTEMPT.match(path)
    if found is None or (found[1] or found[3], found[2] or found[4]) != (caller.rollout_id, caller.attempt_id):
        raise Forbidden(
            f"this token is for attempt {caller.attempt_id!a} of rollout {caller.rollout_id!a}: "
            "use the base URL that the agent was given"
        )


def _refuse(path: str, error: AgentLightningError) -> ASGIApp:
    unknown = error.status == 401
    message = f"{error}; give the client the resource's key, api_key=llm.api_key" if unknown else str(error)
    reply = refusal(error.status, message, "invalid_api_key" if unknown else "forbidden")
    response = response_of(refusal_in(messages.PATH if messages.PATH in path else "", reply))
    if unknown:
        response.headers["www-authenticate"] = "Bearer"
    return response
