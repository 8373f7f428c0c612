"""The tables in a namespace, and the check that they are ours."""

from __future__ import annotations

from typing import Final

from agentlightning.errors import ConfigurationError
from agentlightning.store.postgres.address import Address
from agentlightning.store.postgres.dialect import table
from agentlightning.store.postgres.driver import Connection, asyncpg
from agentlightning.store.schema import STATUS_COUNTS_VIEW, TABLES, VERSION

_VERSION_TABLE: Final = "agentlightning_version"

# Whoever writes spans holds this lock, shared, from before their positions are taken until they are committed.
_SPAN_LOCK: Final = (
    """
    CREATE FUNCTION lock_spans() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN PERFORM pg_advisory_xact_lock_shared({key}); RETURN NULL; END $$
    """,
    "CREATE TRIGGER lock_spans BEFORE INSERT ON spans FOR EACH STATEMENT EXECUTE FUNCTION lock_spans()",
)


async def prepare(connection: Connection, address: Address) -> None:
    """Create the tables in an empty namespace; programs that start at the same time do it one after another.

    Raises:
        ConfigurationError: Another version wrote the namespace, it holds other tables, or may not be written.
    """
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock($1)", address.lock("tables"))
        version = await _version(connection, address)
        if version is None:
            await _create(connection, address)
    if version is not None and version > VERSION:
        raise ConfigurationError(
            f"{address.place} has schema version {version}, this program knows {VERSION}: "
            "upgrade agentlightning or use another namespace"
        )
    if version is not None and version < VERSION:
        raise ConfigurationError(
            f"{address.place} has schema version {version}, this program {VERSION}, and only files can be migrated: "
            "export it with the program that wrote it, and import it into another namespace"
        )


async def _version(connection: Connection, address: Address) -> int | None:
    if await connection.fetchval("SELECT to_regclass($1)", f"{address.schema}.{_VERSION_TABLE}") is None:
        return None
    return await connection.fetchval(f"SELECT version FROM {_VERSION_TABLE}")


async def _create(connection: Connection, address: Address) -> None:
    try:
        if await connection.fetchval("SELECT to_regnamespace($1)", address.schema) is None:
            await connection.execute(f"CREATE SCHEMA {address.schema}")
        for statement in (*TABLES, STATUS_COUNTS_VIEW):
            await connection.execute(table(statement))
        for statement in _SPAN_LOCK:
            await connection.execute(statement.format(key=address.lock("spans")))
        await connection.execute(f"CREATE TABLE {_VERSION_TABLE} (version BIGINT NOT NULL)")
        await connection.execute(f"INSERT INTO {_VERSION_TABLE} VALUES ({VERSION})")
    except (asyncpg.InsufficientPrivilegeError, asyncpg.DuplicateTableError) as error:
        raise ConfigurationError(f"cannot create the tables in {address.place}: {error}") from error
