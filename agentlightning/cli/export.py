"""`agl export`."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from agentlightning._internal.defaults import NAMESPACE
from agentlightning._internal.folders import whole_folder
from agentlightning.cli.interrupt import interrupt_exits_at_once
from agentlightning.cli.store_location import Namespace, Show, counted, progress_bar, run_until_done
from agentlightning.errors import ConfigurationError
from agentlightning.extras import needed_for

if TYPE_CHECKING:
    from agentlightning.adapter.records import Record
    from agentlightning.store import LightningStore

_PAGE: Final = 500


class Kind(StrEnum):
    """What to write; see `RecordKind`."""

    messages = "messages"
    triplets = "triplets"
    rows = "rows"
    spans = "spans"


class Format(StrEnum):
    """How to write it."""

    jsonl = "jsonl"
    hf = "hf"


def export(
    source: Annotated[
        str, typer.Argument(metavar="RUN | LOCATION", help="A run's folder, a store's SQLite file, or postgresql://….")
    ],
    target: Annotated[Path, typer.Argument(metavar="TARGET", help="The file, or the folder of a dataset.")],
    kind: Annotated[
        Kind,
        typer.Option(
            "--as",
            help="messages: each model call's conversation; triplets: its tokens and reward; rows: whole training "
            "sequences; spans: everything.",
        ),
    ] = Kind.messages,
    format: Annotated[  # the option's name
        Format, typer.Option(help="jsonl: JSON Lines; hf: a folder for Hugging Face's datasets.load_from_disk.")
    ] = Format.jsonl,
    mode: Annotated[str | None, typer.Option(help="Only rollouts of this mode: train, val or test.")] = None,
    min_reward: Annotated[float | None, typer.Option(help="Only rollouts with at least this final reward.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace TARGET.")] = False,
    namespace: Namespace = NAMESPACE,
) -> None:
    """Write what succeeded in a run as data: to look at, to fine-tune on, or to train elsewhere.

    Every record carries the rollout's id, mode and final reward. Only the latest attempt of rollouts that succeeded
    counts.

    Example: agl export runs/20260101-120000 good.jsonl --as messages --min-reward 1

    Example: agl export agl-store.db rows --as rows --format hf
    """
    with interrupt_exits_at_once():
        from agentlightning.store.opening import open_store

    if target.exists() and not force:
        raise ConfigurationError(f"{target} is there already: name another TARGET, or --force")
    location = _location(source)

    async def work() -> tuple[int, int]:
        store = open_store(location, namespace=namespace, read_only=True)
        try:
            with progress_bar("Exporting", "rollouts") as show:
                counts = _Counts()
                records = _records(store, kind, mode, min_reward, counts, show)
                await (_write_lines(records, target) if format is Format.jsonl else _write_dataset(records, target))
                return counts.rollouts, counts.records
        finally:
            await store.close()

    rollouts, records = run_until_done(work(), interrupted=f"{target} was not written.")
    typer.echo(f"Wrote {counted(records, 'record')} of {counted(rollouts, 'rollout')} to {target}.")


class _Counts:
    rollouts = 0
    records = 0


def _location(source: str) -> str:
    """Return where the store is, which may be that of a run's folder."""
    if not Path(source).is_dir():
        return source
    file = Path(source) / "store.db"
    if not file.exists():
        raise ConfigurationError(f"{source} is no run's folder with a store: there is no store.db in it")
    return str(file)


async def _records(
    store: LightningStore, kind: Kind, mode: str | None, min_reward: float | None, counts: _Counts, show: Show
) -> AsyncIterator[Record]:
    from agentlightning.adapter.records import records_of
    from agentlightning.emitter import find_final_reward

    offset = 0
    while page := await store.query_rollouts(status_in=["succeeded"], sort_by="start_time", limit=_PAGE, offset=offset):
        for rollout in page:
            offset += 1
            show(offset, page.total)
            if mode is not None and rollout.mode != mode:
                continue
            spans = list(await store.query_spans(rollout.rollout_id, "latest"))
            reward = find_final_reward(spans)
            if min_reward is not None and (reward is None or reward < min_reward):
                continue
            counts.rollouts += 1
            for record in records_of(rollout, spans, kind.value):
                counts.records += 1
                yield record


async def _write_lines(records: AsyncIterator[Record], target: Path) -> None:
    draft = target.with_name(f".{target.name}.part")
    try:
        with draft.open("w", encoding="utf-8") as file:
            async for record in records:
                file.write(json.dumps(record, ensure_ascii=False) + "\n")
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)


async def _write_dataset(records: AsyncIterator[Record], target: Path) -> None:
    with needed_for("a dataset for Hugging Face"):
        import datasets  # pyright: ignore[reportMissingImports]  # optional

    found: list[dict[str, Any]] = [record async for record in records]
    library: Any = datasets
    with whole_folder(target) as draft:
        library.Dataset.from_list(found).save_to_disk(str(draft))
