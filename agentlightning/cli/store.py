"""`agl store`: serves by itself; its commands look into a store and move its data."""

from __future__ import annotations

from typing import Any, Final

import typer
from typer.core import TyperGroup

from agentlightning.cli.store_inspect import inspect_store
from agentlightning.cli.store_migrate import migrate_store
from agentlightning.cli.store_prune import prune_store
from agentlightning.cli.store_serve import serve
from agentlightning.cli.store_transfer import export_store, import_store

_TRACKERS: Final = frozenset({"prometheus", "console"})


class _Group(TyperGroup):
    """Reads v0.3's `--tracker prometheus console`, whose second name looks like a command."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        read: list[str] = []
        for word in args:
            another = word in _TRACKERS and read[-2:-1] == ["--tracker"]
            read += ["--tracker", word] if another else [word]
        return super().parse_args(ctx, read)


store = typer.Typer(cls=_Group, invoke_without_command=True, rich_markup_mode=None)
store.callback()(serve)
store.command("inspect")(inspect_store)
store.command("export")(export_store)
store.command("import")(import_store)
store.command("prune")(prune_store)
store.command("migrate")(migrate_store)
