"""`agl store migrate`."""

from __future__ import annotations

from pathlib import Path

import typer

from agentlightning._internal.defaults import NAMESPACE
from agentlightning.cli.interrupt import interrupt_exits_at_once
from agentlightning.cli.store_location import Location, Namespace, run_until_done


def migrate_store(location: Location, namespace: Namespace = NAMESPACE) -> None:
    """Bring a store file that an older program wrote to the tables of this one.

    Opening a store does the same; this says what it did, and does nothing else. An older program cannot open it
    afterwards: copy the file first if you may want to go back. It happens as a whole or not at all.

    In PostgreSQL nothing is migrated: a namespace of another version is refused, and comes over by export and import.

    Example: agl store migrate agl-store.db
    """
    with interrupt_exits_at_once():
        from agentlightning.store.opening import is_postgres, open_store, schema_version, shown_location
        from agentlightning.store.schema import VERSION

    before = VERSION if is_postgres(location) else schema_version(Path(location))

    async def work() -> None:
        await open_store(location, namespace=namespace).close()

    run_until_done(work(), interrupted="The store is as it was.")
    place = shown_location(location)
    if before == VERSION:
        typer.echo(f"{place} has schema version {VERSION}, the one of this program.")
    else:
        typer.echo(f"Migrated {place} from schema version {before} to {VERSION}.")
