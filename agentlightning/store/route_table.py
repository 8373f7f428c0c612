"""Which operation a request is for, and what is the same for all requests of a route."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, get_args
from urllib.parse import unquote

from agentlightning.errors import StoreError
from agentlightning.store.operations import Operation
from agentlightning.store.polls import LONGEST_POLL
from agentlightning.store.wire import wire_of
from agentlightning.types import AttemptedRollout

PREFIX: Final = "/v1/agl"
"""What the path of every route begins with."""
HEALTH_PATH: Final = f"{PREFIX}/health"
WITHDRAW_PATH: Final = f"{PREFIX}/requests/withdraw"


class NoRoute(StoreError):
    """The server has nothing at this path, or not for this verb."""

    def __init__(self, allowed: Iterable[str]) -> None:
        self.allowed: Final = sorted(allowed)
        super().__init__("Method Not Allowed" if self.allowed else "Not Found")
        self.status = 405 if self.allowed else 404


class Endpoint:
    """One route.

    Attributes:
        operation: The operation.
        wire: Its JSON.
        claims: Whether it hands out an attempt, which must not stay with a client that left.
    """

    def __init__(self, operation: Operation) -> None:
        self.operation: Final = operation
        self.wire: Final = wire_of(operation)
        answer = operation.signature.return_annotation
        self.claims: Final = operation.mutates and AttemptedRollout in (answer, *get_args(answer))
        self._wait = self.wire.waits
        self._default_wait = None if self._wait is None else operation.signature.parameters[self._wait].default

    def bound_wait(self, arguments: dict[str, Any]) -> bool:
        """Bound how long a request waits for something to happen, and return whether it does."""
        if self._wait is None:
            return False
        asked = arguments.get(self._wait, self._default_wait)
        arguments[self._wait] = LONGEST_POLL if asked is None else min(asked, LONGEST_POLL)
        return arguments[self._wait] > 0


class RouteTable:
    """Finds the endpoint of a path.

    Args:
        routes: The operations and their aliases.
    """

    def __init__(self, routes: Iterable[Operation]) -> None:
        self._fixed: dict[str, dict[str, Endpoint]] = {}
        self._open: list[tuple[list[str], dict[str, Endpoint]]] = []
        by_path: dict[str, dict[str, Endpoint]] = {}
        for route in routes:
            by_path.setdefault(route.path, {})[route.verb] = Endpoint(route)
        for path, verbs in by_path.items():
            if "{" in path:
                self._open.append((path.split("/"), verbs))
            else:
                self._fixed[path] = verbs
        self._open.sort(key=lambda entry: sum(part[:1] == "{" for part in entry[0]))  # what names more comes first

    def find(self, verb: str, path: str) -> tuple[Endpoint, dict[str, str]]:
        """Return the endpoint and the values of its path parameters.

        Args:
            verb: HTTP verb.
            path: The path below the prefix, as the request has it: a slash in an id comes as `%2F`.

        Raises:
            NoRoute: There is none.
        """
        allowed: set[str] = set()
        if fixed := self._fixed.get(path):
            if verb in fixed:
                return fixed[verb], {}
            allowed |= fixed.keys()
        parts = path.split("/")
        for pattern, verbs in self._open:
            if len(pattern) == len(parts) and _matches(pattern, parts):
                if verb in verbs:
                    return verbs[verb], _values(pattern, parts)
                allowed |= verbs.keys()
        raise NoRoute(allowed)


def _matches(pattern: list[str], parts: list[str]) -> bool:
    return all(name == part or name[:1] == "{" for name, part in zip(pattern, parts, strict=True))


def _values(pattern: list[str], parts: list[str]) -> dict[str, str]:
    return {name[1:-1]: unquote(part) for name, part in zip(pattern, parts, strict=True) if name[:1] == "{"}
