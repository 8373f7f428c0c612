"""Resources: the sets of named things that are tuned."""

from __future__ import annotations

from typing import Final

from pydantic import TypeAdapter

from agentlightning._internal.ids import generate_id
from agentlightning.errors import IllegalTransition, InvalidValue
from agentlightning.store.redaction import check_not_redacted
from agentlightning.store.sql.checks import check_id
from agentlightning.store.sql.filters import Conditions, Paging, fetch_page
from agentlightning.store.sql.moves import count_up
from agentlightning.store.sql.transaction import Row, Transaction
from agentlightning.types import NamedResources, PaginatedResult, ResourcesUpdate

RESOURCES_FIELDS: Final = tuple(ResourcesUpdate.model_fields)
_LATEST: Final = "latest"
_SELECT: Final = f"SELECT {', '.join(RESOURCES_FIELDS)} FROM resources"
_INSERT: Final = f"INSERT INTO resources ({', '.join(RESOURCES_FIELDS)}, newest, position) VALUES (?, ?, ?, ?, ?, ?, ?)"
_SORTABLE: Final = {name: name for name in RESOURCES_FIELDS if name != "resources"}
_RESOURCES: Final[TypeAdapter[NamedResources]] = TypeAdapter(NamedResources)


def check_resources_id(resources_id: str) -> None:
    """Refuse an id that resources cannot be kept under.

    Raises:
        InvalidValue: It is no text, empty, or the word that stands for the resources written last.
    """
    check_id(resources_id, "resources_id")
    if resources_id == _LATEST:
        raise InvalidValue(f"resources_id is {_LATEST!r}, which means the resources written last: take another")


def encode_resources(resources: NamedResources) -> bytes:
    """Check resources and return them as JSON.

    Raises:
        InvalidValue: They are not resources by name, could not be read back, or were read with their keys redacted.
    """
    try:
        checked = _RESOURCES.validate_python(resources)
        body = _RESOURCES.dump_json(checked)
        _RESOURCES.validate_json(body)
    except ValueError as error:  # pydantic's own errors are some
        raise InvalidValue(f"resources cannot be kept: {error}") from error
    check_not_redacted(checked)
    return body


async def latest_resources_id(tx: Transaction) -> str | None:
    """Return the id that was written last, or None."""
    row = await tx.fetch_one("SELECT resources_id FROM resources ORDER BY position DESC LIMIT 1")
    return row[0] if row else None


async def get_latest_resources(tx: Transaction) -> ResourcesUpdate | None:
    """Return the resources written last, or None."""
    row = await tx.fetch_one(f"{_SELECT} ORDER BY position DESC LIMIT 1")
    return resources_update_of(row) if row else None


async def write_resources(
    tx: Transaction, resources_id: str | None, resources: bytes, expected_version: int | None = None
) -> ResourcesUpdate:
    """Write the next version of an id, or a new id for None; it becomes the latest.

    Raises:
        IllegalTransition: The newest version is not the expected one.
    """
    position = await count_up(tx, "resources")
    resources_id = resources_id or f"rs-{generate_id(12)}"
    former = await tx.fetch_one(
        "UPDATE resources SET newest = 0 WHERE resources_id = ? AND newest = 1 RETURNING version, create_time",
        (resources_id,),
    )
    version, create_time = former or (0, tx.now)
    if expected_version is not None and expected_version != version:
        raise IllegalTransition(
            f"resources {resources_id!r} are at version {version}, not {expected_version}: read them again"
        )
    row = (resources_id, create_time, tx.now, version + 1, resources)
    await tx.execute(_INSERT, (*row, 1, position))
    return resources_update_of(row)


async def query_resources(
    tx: Transaction, conditions: Conditions, version: int | None, paging: Paging
) -> PaginatedResult[ResourcesUpdate]:
    """Return a page of resources, of each id the newest version or the one with this number."""
    order = paging.order(_SORTABLE, "position")
    matches = f"resources WHERE {conditions.sql()} AND {'newest' if version is None else 'version'} = ?"
    params = [*conditions.params, 1 if version is None else version]
    sql = f"SELECT {', '.join(RESOURCES_FIELDS)} FROM {matches} ORDER BY {order} LIMIT ? OFFSET ?"
    rows, total = await fetch_page(tx, sql, matches, params, paging)
    return PaginatedResult[ResourcesUpdate].model_construct(
        items=[resources_update_of(row) for row in rows], limit=paging.limit, offset=paging.offset, total=total
    )


def resources_update_of(row: Row) -> ResourcesUpdate:
    """Build an update from the columns of `RESOURCES_FIELDS`."""
    values = dict(zip(RESOURCES_FIELDS, row, strict=True))
    values["resources"] = _RESOURCES.validate_json(values["resources"])
    return ResourcesUpdate.model_construct(**values)
