"""Where a store lies in PostgreSQL: a database, and in it a namespace; and how to connect to it."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from agentlightning.errors import ConfigurationError, StoreUnreachable
from agentlightning.store.postgres.driver import FAILURES, Connection, asyncpg, connect

_NAMESPACE: Final = re.compile(r"(?!pg_)[A-Za-z_][A-Za-z0-9_-]{0,47}")
_CONNECT_SECONDS: Final = 10.0
COMMAND_SECONDS: Final = 60.0
"""How long a statement may take."""
_SETTINGS: Final = {
    "application_name": "agentlightning",
    "standard_conforming_strings": "on",
    "jit": "off",  # compiling a query takes longer than each of ours
    # A server that stands still in a transaction must not keep the others from its rows.
    "idle_in_transaction_session_timeout": "10s",
    "lock_timeout": "20s",
}
_REFUSED: Final = (
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.ClientConfigurationError,
    asyncpg.InvalidPasswordError,
)


@dataclass(frozen=True, slots=True)
class Address:
    """A database, and the schema in it that holds a store.

    Raises:
        ConfigurationError: The namespace cannot name a schema.
    """

    dsn: str
    namespace: str

    def __post_init__(self) -> None:
        if not _NAMESPACE.fullmatch(self.namespace):
            raise ConfigurationError(
                f"namespace is {self.namespace!a}: use at most 48 letters, digits, '_' and '-', "
                "a letter or '_' first, not 'pg_'"
            )

    @property
    def schema(self) -> str:
        """The schema's name for SQL."""
        return f'"{self.namespace}"'

    @property
    def channel(self) -> str:
        """On which the stores of this place notify each other."""
        return f"agentlightning:{self.namespace}"

    @property
    def place(self) -> str:
        """The place in words, without a password."""
        parts = urlsplit(self.dsn)
        host = parts.netloc.rpartition("@")[2] or "this machine"
        return f"PostgreSQL at {host}, database {parts.path.strip('/') or 'by default'}, namespace {self.namespace}"

    def lock(self, purpose: str) -> int:
        """Return the key of an advisory lock of this namespace."""
        digest = hashlib.blake2b(f"agentlightning/{self.namespace}/{purpose}".encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big", signed=True)

    async def connect(self) -> Connection:
        """Open a connection whose statements mean this namespace.

        Raises:
            StoreUnreachable: Nobody answers, or the database takes no connections at the moment.
            ConfigurationError: The database refuses the name, the password or itself.
        """
        settings = {**_SETTINGS, "search_path": self.schema}
        options: dict[str, Any] = {"timeout": _CONNECT_SECONDS, "command_timeout": COMMAND_SECONDS}
        try:
            return await connect(self.dsn, server_settings=settings, statement_cache_size=500, **options)
        except _REFUSED as error:
            raise ConfigurationError(f"cannot use {self.place}: {error}") from error
        except FAILURES as error:
            raise StoreUnreachable(
                f"cannot connect to {self.place} ({type(error).__name__}: {error}): "
                "see that the database runs, and that it takes one more connection"
            ) from error
        except ValueError:  # its words may hold a part of the password
            raise ConfigurationError(
                "the DSN cannot be read: write postgresql://user:password@host/db, and %2F for a / in the password"
            ) from None
