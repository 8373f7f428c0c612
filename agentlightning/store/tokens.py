"""Bearer tokens: the administrator's secret, and tokens with fewer rights that are derived from it.

Nothing is stored: a derived token says whose it is and carries an HMAC of that, so that every server with the same
secret accepts it. Whoever holds a derived token can try secrets against it at leisure: use generated ones.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from agentlightning.errors import ConfigurationError, Unauthorized
from agentlightning.store.operations import Role

TOKEN_VARIABLE: Final = "AGL_TOKEN"

_VERSION: Final = "agl1"
_RUNNER: Final = f"{_VERSION}.runner"
_AGENT: Final = f"{_VERSION}.agent."
_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sent a request; an agent acts for one attempt of one rollout."""

    role: Role
    rollout_id: str | None = None
    attempt_id: str | None = None


ADMIN: Final = Caller("admin")
RUNNER: Final = Caller("runner")


def generate_token() -> str:
    """Return a new secret."""
    return secrets.token_urlsafe(_BYTES)


def token_given(token: str | None) -> str | None:
    """Return the token that was passed, or else the environment's; None for none.

    Raises:
        ConfigurationError: It is empty, as where a variable that was to hold it is not set.
    """
    if token == "":
        raise ConfigurationError(f"the token is empty: pass one, or none at all for that in {TOKEN_VARIABLE}")
    return token or os.environ.get(TOKEN_VARIABLE) or None


def required_token(host: str, token: str | None) -> str | None:
    """Return the token that a server demands: the one passed, or else the environment's; None for none.

    Raises:
        ConfigurationError: It is empty, or there is none though other machines can reach the host.
    """
    from agentlightning.serving import is_loopback  # only servers ask: clients do without the web framework

    given = token_given(token)
    if given is None and not is_loopback(host):
        raise ConfigurationError(
            f"other machines can reach {host}: pass token=, or set {TOKEN_VARIABLE}, so that they need one"
        )
    return given


def check_secret(secret: str) -> None:
    """Refuse a secret that an HTTP header cannot carry.

    Raises:
        ConfigurationError: It holds spaces, control characters or what is not ASCII.
    """
    if not (secret.isascii() and secret.isprintable()) or " " in secret or not secret:
        raise ConfigurationError("the token must be of visible ASCII characters, without spaces")


def runner_token(secret: str) -> str:
    """Return the token of runners, which claim work and report on it."""
    return _signed(secret, _RUNNER)


def agent_token(holder: str, rollout_id: str, attempt_id: str) -> str:
    """Return the token of one attempt's agent, which asks models, writes that attempt's spans and reads its rollout.

    Args:
        holder: The secret, or the token of runners: it is enough, for they give agents theirs.
        rollout_id: The rollout.
        attempt_id: The attempt.
    """
    key = holder if is_runner_token(holder) else runner_token(holder)
    return _signed(key, f"{_AGENT}{_encode(rollout_id.encode())}.{_encode(attempt_id.encode())}")


def is_runner_token(token: str) -> bool:
    """Whether a token has the form of runners' tokens."""
    return token.startswith(f"{_RUNNER}.")


def presented_in(headers: Mapping[bytes, bytes]) -> str:
    """Return the token among the headers of a request.

    Raises:
        Unauthorized: There is none.
    """
    scheme, _, presented = headers.get(b"authorization", b"").partition(b" ")
    if scheme.lower() != b"bearer":
        presented = headers.get(b"x-api-key", b"")
    if not presented:
        raise Unauthorized("this server wants a token: Authorization: Bearer ...")
    return presented.strip().decode("latin-1")


def verify(secret: str, presented: str) -> Caller:
    """Return whose token it is.

    Raises:
        Unauthorized: Nobody's.
    """
    if hmac.compare_digest(presented.encode(), secret.encode()):
        return ADMIN
    claim = presented.rpartition(".")[0]
    key = runner_token(secret) if claim.startswith(_AGENT) else secret
    if not hmac.compare_digest(presented.encode(), _signed(key, claim).encode()):
        raise Unauthorized("the token is unknown here")
    match claim.split("."):
        case [version, "runner"] if version == _VERSION:
            return RUNNER
        case [version, "agent", rollout, attempt] if version == _VERSION:
            return Caller("agent", _decode(rollout), _decode(attempt))
        case _:
            raise Unauthorized("the token is of another version of this program")


def _signed(secret: str, claim: str) -> str:
    return f"{claim}.{_encode(hmac.digest(secret.encode(), claim.encode(), hashlib.sha256))}"


def _encode(value: bytes) -> str:
    return urlsafe_b64encode(value).rstrip(b"=").decode()


def _decode(text: str) -> str:
    return urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode()
