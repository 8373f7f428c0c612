"""Who may do what: tokens, roles, and the one attempt that an agent acts for."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from functools import lru_cache
from typing import Any, Final
from urllib.parse import urlsplit

from agentlightning.errors import Forbidden
from agentlightning.serving import is_loopback
from agentlightning.store.operations import Operation, Role
from agentlightning.store.span_json import SpansOnTheWire
from agentlightning.store.tokens import ADMIN, Caller, check_secret, presented_in, verify

_RANK: Final[dict[Role, int]] = {"agent": 0, "runner": 1, "admin": 2}
_NAMES: Final = {"rollout_id", "rollout_attempt_ids", "span", "spans"}
"""The parameters that say whose an operation is."""


class Access:
    """Decides about requests; without a token every caller on this machine has all roles.

    Args:
        token: The administrator's; None for none.
        origins: The web pages that may call a store without a token, beside those of this machine; "*" for all.
    """

    def __init__(self, token: str | None, origins: Collection[str] = ()) -> None:
        if token is not None:
            check_secret(token)
        self._token = token
        self._origins = frozenset(origins)

    def caller_of(self, headers: Mapping[bytes, bytes]) -> Caller:
        """Return who sent a request.

        Raises:
            Unauthorized: No token, or nobody's.
            Forbidden: Without tokens: a web page sent the request. Its scripts could write, and read the answers too
                once its name resolves to this machine.
        """
        if self._token is None:
            _check_host(headers.get(b"host", b"localhost").decode("latin-1"))
            self._check_origin(headers)
            return ADMIN
        return verify(self._token, presented_in(headers))

    def _check_origin(self, headers: Mapping[bytes, bytes]) -> None:
        """Refuse other web pages: a browser asks nobody before it sends a form or plain text to another site."""
        if (origin := headers.get(b"origin")) is not None:
            name = origin.decode("latin-1")
            ours = not self._origins.isdisjoint({name, "*"}) or _names_this_machine(name.partition("://")[2])
        else:
            ours, name = headers.get(b"sec-fetch-site") != b"cross-site", "another site"
        if not ours:
            raise Forbidden(f"this store without a token takes nothing from web pages of {name[:100]!a}")


def check_role(caller: Caller, role: Role, what: str) -> None:
    """Refuse what is above the caller's role.

    Args:
        caller: Who asks.
        role: The least that it must be.
        what: The name of what it asks for.

    Raises:
        Forbidden: It is less.
    """
    if _RANK[caller.role] < _RANK[role]:
        raise Forbidden(f"{what} is for the role {role}, this token's is {caller.role}")


def check_attempt(caller: Caller, operation: Operation, arguments: Mapping[str, Any]) -> None:
    """Refuse an agent's operation on what is not its own: it writes to its attempt and reads its rollout.

    Raises:
        Forbidden: It is another's.
    """
    if caller.role != "agent":
        return
    own = all(
        rollout_id == caller.rollout_id and (attempt_id == caller.attempt_id or not operation.mutates)
        for rollout_id, attempt_id in _attempts_in(arguments)
    )
    if not own or not _NAMES & arguments.keys():
        raise Forbidden(f"this token is for attempt {caller.attempt_id!a} of rollout {caller.rollout_id!a}")


def _attempts_in(arguments: Mapping[str, Any]) -> Iterator[tuple[str, str | None]]:
    if "rollout_id" in arguments:
        yield arguments["rollout_id"], arguments.get("attempt_id")
    yield from arguments.get("rollout_attempt_ids", ())
    spans = arguments.get("spans", ())
    if isinstance(spans, SpansOnTheWire):
        yield from ((values["rollout_id"], values["attempt_id"]) for values in spans.values)
        return
    for span in [arguments["span"]] if "span" in arguments else spans:
        yield span.rollout_id, span.attempt_id


def _check_host(host: str) -> None:
    if not _names_this_machine(host):
        raise Forbidden(f"this store without a token answers to names of this machine only, not to {host[:100]!a}")


@lru_cache(maxsize=64)
def _names_this_machine(host: str) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname
    except ValueError:
        return False
    return name is not None and is_loopback(name)
