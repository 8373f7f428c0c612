"""`agl store`: serves by itself; its commands look into a store and move its data."""

from __future__ import annotations

import typer

from agentlightning.cli.store_inspect import inspect_store
from agentlightning.cli.store_migrate import migrate_store
from agentlightning.cli.store_prune import prune_store
from agentlightning.cli.store_serve import serve
from agentlightning.cli.store_transfer import export_store, import_store

store = typer.Typer(invoke_without_command=True, rich_markup_mode=None)
store.callback()(serve)
store.command("inspect")(inspect_store)
store.command("export")(export_store)
store.command("import")(import_store)
store.command("prune")(prune_store)
store.command("migrate")(migrate_store)
