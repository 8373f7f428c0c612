"""Resources: the sets of named things that are tuned."""

from __future__ import annotations

from typing import Final

from pydantic import TypeAdapter

from agentlightning._internal.ids import generate_id
from agentlightning.errors import InvalidValue
from agentlightning.store.sql.filters import Conditions, Paging, fetch_page
from agentlightning.store.sql.transaction import Row, Transaction
from agentlightning.types import NamedResources, PaginatedResult, ResourcesUpdate

_FIELDS: Final = tuple(ResourcesUpdate.model_fields)
_SELECT: Final = f"SELECT {', '.join(_FIELDS)} FROM resources"
_SORTABLE: Final = {name: name for name in _FIELDS if name != "resources"}
_RESOURCES: Final[TypeAdapter[NamedResources]] = TypeAdapter(NamedResources)


def encode_resources(resources: NamedResources) -> bytes:
    """Check resources and return them as JSON.

    Raises:
        InvalidValue: They are not resources by name, or could not be read back.
    """
    try:
        body = _RESOURCES.dump_json(_RESOURCES.validate_python(resources))
        _RESOURCES.validate_json(body)
    except ValueError as error:  # pydantic's own errors are some
        raise InvalidValue(f"resources cannot be kept: {error}") from error
    return body


async def latest_resources_id(tx: Transaction) -> str | None:
    """Return the id that was written last, or None."""
    row = await tx.fetch_one("SELECT resources_id FROM resources ORDER BY write_position DESC LIMIT 1")
    return row[0] if row else None


async def get_latest_resources(tx: Transaction) -> ResourcesUpdate | None:
    """Return the resources written last, or None."""
    row = await tx.fetch_one(f"{_SELECT} ORDER BY write_position DESC LIMIT 1")
    return _update_of(row) if row else None


async def write_resources(tx: Transaction, resources_id: str | None, resources: bytes) -> ResourcesUpdate:
    """Write the next version of an id, or a new id for None; it becomes the latest."""
    row = await tx.fetch_one(
        f"""
        INSERT INTO resources ({", ".join(_FIELDS)}, write_position)
        VALUES (?, ?, ?, 1, ?, (SELECT COALESCE(MAX(write_position), 0) + 1 FROM resources))
        ON CONFLICT (resources_id) DO UPDATE SET
            version = resources.version + 1,
            update_time = excluded.update_time,
            resources = excluded.resources,
            write_position = excluded.write_position
        RETURNING {", ".join(_FIELDS)}
        """,
        (resources_id or f"rs-{generate_id(12)}", tx.now, tx.now, resources),
    )
    assert row is not None
    return _update_of(row)


async def query_resources(tx: Transaction, conditions: Conditions, paging: Paging) -> PaginatedResult[ResourcesUpdate]:
    """Return a page of resources."""
    order = paging.order(_SORTABLE, "position")
    sql = f"{_SELECT}{conditions.where()} ORDER BY {order} LIMIT ? OFFSET ?"
    rows, total = await fetch_page(tx, sql, f"resources{conditions.where()}", conditions.params, paging)
    return PaginatedResult[ResourcesUpdate].model_construct(
        items=[_update_of(row) for row in rows], limit=paging.limit, offset=paging.offset, total=total
    )


def _update_of(row: Row) -> ResourcesUpdate:
    values = dict(zip(_FIELDS, row, strict=True))
    values["resources"] = _RESOURCES.validate_json(values["resources"])
    return ResourcesUpdate.model_construct(**values)
