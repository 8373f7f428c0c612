"""Where a store lies, in one word."""

from __future__ import annotations

import os
import re
import sqlite3
from pathlib import Path

from agentlightning._internal.defaults import NAMESPACE
from agentlightning.errors import ConfigurationError
from agentlightning.store.sql.store import SqlLightningStore
from agentlightning.store.sqlite import SqliteLightningStore


def is_postgres(location: str | os.PathLike[str]) -> bool:
    """Whether a location is the address of a PostgreSQL database."""
    return str(location).startswith(("postgresql://", "postgres://"))


def shown_location(location: str | os.PathLike[str]) -> str:
    """Return a location without the passwords in it, however badly it is written."""
    if "://" not in str(location):
        return str(location)
    without_user = re.sub(r"(://[^:/?#@]*):.*@", r"\1:***@", str(location), flags=re.DOTALL)
    return re.sub(r"([?&]\w*pass\w*=)[^&#]*", r"\1***", without_user, flags=re.IGNORECASE)


def open_store(
    location: str | os.PathLike[str],
    *,
    namespace: str = NAMESPACE,
    read_only: bool = False,
    create: bool = False,
) -> SqlLightningStore:
    """Open the store in a SQLite file or a PostgreSQL database, for a tool that works on what is there.

    The deadlines of a file's attempts are left to those who serve it. A database's store keeps them as always.

    Args:
        location: The file, or `postgresql://user:password@host/database`.
        namespace: Which of the stores in a PostgreSQL database.
        read_only: Leave a file as it is. A database's store is opened as always.
        create: Make a file that is missing. A database's namespace is always made.

    Raises:
        ConfigurationError: There is no such store, or it cannot be used.
    """
    if is_postgres(location):
        from agentlightning.store.postgres import PostgresLightningStore

        return PostgresLightningStore(str(location), namespace=namespace)
    if "://" in str(location):
        shown = shown_location(location)
        raise ConfigurationError(f"{shown} is neither a file nor postgresql://...: name where the store's data is")
    if not create and not schema_version(Path(location)):
        raise ConfigurationError(f"there is no store in {location}: name its file, or postgresql://user@host/database")
    return SqliteLightningStore(location, read_only=read_only, keep_deadlines=False)


def schema_version(path: Path) -> int:
    """Return the version of the tables in a SQLite file; 0 for a file that holds no store, or does not exist."""
    try:
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
    except sqlite3.Error:
        return 0
    try:
        return connection.execute("PRAGMA user_version").fetchone()[0]
    except sqlite3.Error:
        return 0
    finally:
        connection.close()
