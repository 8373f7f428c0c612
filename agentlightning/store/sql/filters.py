"""Conditions, order and pages of the queries."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from pydantic_core import to_json

from agentlightning.errors import InvalidValue
from agentlightning.store.sql.checks import check_integer, check_optional_text, check_texts
from agentlightning.store.sql.transaction import Row, Transaction, Value

ALL: Final = 2**62
"""The LIMIT of a query for everything; an OFFSET can be added to it."""


@dataclass(slots=True)
class Conditions:
    """Conditions that were asked for, joined by one logic; a condition whose value is None was not asked for."""

    logic: Literal["and", "or"]
    columns: set[str] = field(default_factory=set[str])
    clauses: list[str] = field(default_factory=list[str])
    params: list[Value] = field(default_factory=list[Value])

    def __post_init__(self) -> None:
        if self.logic not in ("and", "or"):
            raise InvalidValue(f"filter_logic is {self.logic!r}: use 'and' or 'or'")

    def exact(self, column: str, value: str | None) -> None:
        """The column equals the value."""
        check_optional_text(value, _public(column))
        if value is not None:
            self._add(column, f"{column} = ?", value)

    def contains(self, column: str, value: str | None) -> None:
        """The column holds the value as a substring; case counts."""
        check_optional_text(value, f"{_public(column)}_contains")
        if value is not None:
            self._add(column, f"instr({column}, ?) > 0", value)

    def within(self, column: str, values: Iterable[str] | None) -> None:
        """The column equals one of the values; no values match nothing."""
        if values is None:
            return
        chosen = values if isinstance(values, str) else list(values)
        check_texts(chosen, f"{_public(column)}_in")
        if len(chosen) == 1:
            self.exact(column, chosen[0])
        else:
            self._add(column, f"{column} IN (SELECT value FROM json_each(?))", to_json(chosen).decode())

    def _add(self, column: str, clause: str, value: str) -> None:
        self.columns.add(column)
        self.clauses.append(clause)
        self.params.append(value)

    def where(self) -> str:
        """Return the conditions as a WHERE clause; nothing when there are none, for SQLite counts a bare table fast."""
        return f" WHERE {self.sql()}" if self.clauses else ""

    def sql(self) -> str:
        """Return the conditions as one, true when there are none."""
        return f"({f' {self.logic.upper()} '.join(self.clauses)})" if self.clauses else "TRUE"


@dataclass(slots=True, frozen=True)
class Paging:
    """The order of a query and the part of it to return.

    Attributes:
        sort_by: The field to sort by; None for the order of insertion.
        limit: How many to return; -1 for all.
    """

    sort_by: str | None
    sort_order: Literal["asc", "desc"]
    limit: int
    offset: int

    def __post_init__(self) -> None:
        if self.sort_order not in ("asc", "desc"):
            raise InvalidValue(f"sort_order is {self.sort_order!r}: use 'asc' or 'desc'")
        check_optional_text(self.sort_by, "sort_by")
        check_integer(self.limit, "limit")
        check_integer(self.offset, "offset")
        if self.limit < -1 or self.offset < 0:
            raise InvalidValue(f"limit is {self.limit} and offset {self.offset}: use -1 or more, and 0 or more")

    def order(self, sortable: Mapping[str, str], ties: str) -> str:
        """Return the ORDER BY terms; `ties` orders equal keys.

        Raises:
            InvalidValue: The field cannot be sorted by.
        """
        if self.sort_by is None:
            return ties
        if self.sort_by not in sortable:
            raise InvalidValue(f"Invalid sort_by: {self.sort_by}, allowed fields are: {', '.join(sortable)}")
        return f"{sortable[self.sort_by]} {self.sort_order.upper()}, {ties}"


def _public(column: str) -> str:
    """Return what callers call a column."""
    return column.rpartition(".")[2]


def time_key(column: str) -> str:
    """Return what to sort a time by: one that has not come yet is later than all others."""
    return f"COALESCE({column}, 1e308)"


def text_key(column: str) -> str:
    """Return what to sort a text by that may be missing: then it comes before all others, in every database."""
    return f"COALESCE({column}, '')"


async def fetch_page(
    tx: Transaction,
    sql: str,
    matches: str,
    params: Sequence[Value],
    paging: Paging,
    *,
    count: str = "COUNT(*)",
) -> tuple[list[Row], int]:
    """Return the rows of a page and the number of matches on all pages.

    Args:
        tx: The transaction.
        sql: The query; its last parameters are limit and offset.
        matches: The table and the conditions, asked for the number when the page does not tell it.
        params: The parameters of the conditions.
        paging: Limit and offset.
        count: What to ask it.
    """
    limit = ALL if paging.limit < 0 else paging.limit
    rows = await tx.fetch(sql, [*params, limit, paging.offset])
    past_the_end = not rows and paging.offset > 0
    if not past_the_end and len(rows) < limit:
        return rows, paging.offset + len(rows)
    counted = await tx.fetch_one(f"SELECT {count} FROM {matches}", params)
    return rows, counted[0] if counted else 0
