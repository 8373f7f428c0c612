"""A store as lines of JSON: what `export_lines` writes, `import_lines` reads, and what both agree on.

The first line is the header. Then come the versions of resources, the rollouts, each followed by its attempts, and the
spans, all in the order in which the store got them. Every line is an object whose `kind` says what it is.
"""

from __future__ import annotations

import gzip
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Final, Literal, TypeAlias, cast

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from agentlightning.errors import ConfigurationError, InvalidValue, StoreError
from agentlightning.store.span_json import SpanOnTheWire
from agentlightning.types import Attempt, ResourcesUpdate, Rollout

FORMAT: Final = 1


@dataclass(slots=True)
class Transferred:
    """How much was written or read."""

    resources: int = 0
    rollouts: int = 0
    attempts: int = 0
    spans: int = 0

    @property
    def lines(self) -> int:
        """All in all."""
        return sum(asdict(self).values())


Progress: TypeAlias = Callable[[Transferred, Transferred], None]
"""Hears how much is done, and how much there is; it may raise to stop the work."""


class Header(BaseModel):
    """What a file holds.

    Attributes:
        kind: Tells it from the other lines.
        format: The version of this format.
        secrets: Whether API keys are in it.
        queue: The last number that a place in the queue has.
        finish: The last number that the end of a rollout has.
        counts: How many lines follow.
    """

    kind: Literal["store"] = "store"
    format: int
    secrets: bool
    queue: int = Field(ge=0, lt=2**53)
    finish: int = Field(ge=0, lt=2**53)
    counts: Transferred


class ResourcesLine(ResourcesUpdate):
    """One version of resources."""

    kind: Literal["resources"] = "resources"


class RolloutLine(Rollout):
    """A rollout, with what orders it."""

    kind: Literal["rollout"] = "rollout"
    latest_attempt_id: str | None
    span_counter: int
    queue_position: int
    finish_position: int | None


class AttemptLine(Attempt):
    """An attempt of the rollout before it."""

    kind: Literal["attempt"] = "attempt"


class SpanLine(BaseModel):
    """A span; `late` if it came after the end of its attempt."""

    kind: Literal["span"] = "span"
    late: bool
    span: SpanOnTheWire


Line: TypeAlias = Header | ResourcesLine | RolloutLine | AttemptLine | SpanLine
_LINE: Final[TypeAdapter[Line]] = TypeAdapter(Annotated[Line, Field(discriminator="kind")])


def parse(line: bytes) -> Line:
    """Read a line.

    Raises:
        InvalidValue: It is none of an export.
    """
    try:
        return _LINE.validate_json(line)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise InvalidValue(f"{place}: {first['msg']}" if place else first["msg"]) from error


def open_file(path: Path, mode: Literal["rb", "wb"], *, compressed: bool) -> BinaryIO:
    """Open a file of lines, of which gzip makes a fifth; a new one is for its owner alone.

    Raises:
        ConfigurationError: It cannot be opened.
    """
    try:
        if mode == "wb":
            path.touch(0o600)
        made: Any = gzip.open(path, mode, compresslevel=6) if compressed else path.open(mode)  # noqa: SIM115  # callers do
    except OSError as error:
        raise ConfigurationError(f"cannot open {path}: {error.strerror}") from error
    return cast("BinaryIO", made)


@contextmanager
def stoppable(progress: Progress | None) -> Generator[Progress]:
    """Give the block a progress to pass on, which stops the work in the store's thread when the block is left."""
    left = threading.Event()

    def tell(done: Transferred, all_: Transferred) -> None:
        if left.is_set():
            raise StoreError("nobody waits for this any more")
        if progress is not None:
            progress(done, all_)

    try:
        yield tell
    finally:
        left.set()
