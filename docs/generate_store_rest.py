"""Writes docs/store_rest.md from the table of the store's operations.

Run `python docs/generate_store_rest.py > docs/store_rest.md`. The docstrings of `LightningStore` are its words.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from typing import Final

from agentlightning import errors
from agentlightning.store import LightningStore
from agentlightning.store.docstrings import parts_of
from agentlightning.store.operations import Operation, operations_of, routes_of

_PAGE: Final = """\
<!-- Written by docs/generate_store_rest.py from agentlightning/store/base.py; do not edit. -->
# The store over HTTP

What `LightningStoreServer` and `agl store` serve, and `LightningStoreClient` speaks; [The store](store.md) says what
the operations promise. Every path below stands under `/v1/agl`. The server describes itself at `/openapi.json`.

- **Arguments**: names in braces stand in the path. A POST has a JSON object of the others as its body, unless it says
  that one of them is the body; that one's neighbours stand in the query. A GET has its arguments in the query, a list
  as a repeated name. What is left out keeps its default; `UNSET` means that the field stays as it is. Names that an
  operation does not have are ignored.
- **Answers**: the JSON of what the method returns. Errors are `{{"detail": ..., "error": ...}}`: what went wrong, and
  the name of the error's class, which the client raises. A page is `{{"items": ..., "limit": ..., "offset": ...,
  "total": ...}}`.
- **Roles**: the least that the caller's token must be; each role may do what those before it may:
  {roles}.
- **Repeating**: a request marked *keyed* may carry an `Idempotency-Key`. Sent again with its key, it is answered as
  the first time and does nothing; the key with another body is refused with 422. The others can be repeated as they
  are.
- **Waiting**: a request that waits is answered after 20 seconds at the latest with what there is; ask again. Who hangs
  up waits no longer.

Beside the errors that a route names, any route may answer 401 (no token, or an unknown one), 403 (the token is not for
this), 413 (too much at once), 422 (the arguments do not fit), 429 (too many requests; `Retry-After` says when to come
back) and 503 (the store was closed).

`GET /v1/agl/health` answers `{{"status": "ok"}}`. Spans of OpenTelemetry exporters go to `/v1/traces`, outside of
`/v1/agl`, see [OpenTelemetry](store.md#opentelemetry).

## Operations

{operations}
## Other routes of v0.3

Each is another way to an operation above, or to a method that is written in terms of one.

{aliases}
"""


def page() -> str:
    """Return the page."""
    operations = list(operations_of(LightningStore).values())
    aliases = routes_of(LightningStore)[len(operations) :]
    return _PAGE.format(
        roles=", ".join(f"`{role}`" for role in ("agent", "runner", "admin")),
        operations="\n".join(map(_section, operations)),
        aliases="\n".join([_ALIAS_HEAD, *map(_alias, aliases)]),
    )


_ALIAS_HEAD: Final = "| route | method | role | what it does |\n|---|---|---|---|"


def _alias(route: Operation) -> str:
    answer = f"; answers `{{{route.answer!r}: ...}}`".replace("'", '"') if route.answer else ""
    body = f"; the body is `{route.body}`" if route.body else ""
    summary = _documentation(route).partition("\n")[0].rstrip(".")
    return f"| `{route.verb} {route.path}` | `{route.name}` | {route.role} | {summary}{body}{answer} |"


def _section(operation: Operation) -> str:
    """The route, what it does, its arguments, and how it answers."""
    summary, arguments, raises = parts_of(_documentation(operation))
    lines = [f"### `{operation.verb} {operation.path}`", ""]
    lines += [f"`{operation.name}` · role `{operation.role}`{' · keyed' if operation.keyed else ''}", "", summary, ""]
    lines += [_parameter(operation, parameter, arguments) for parameter in _parameters(operation)]
    returns = inspect.signature(operation.method).return_annotation
    lines += [f"- answers {operation.status}: `{returns}`"]
    lines += [f"- {getattr(errors, name).status} `{name}`: {text}" for name, text in _refusals(raises)]
    return "\n".join(lines) + "\n"


def _parameters(operation: Operation) -> Iterator[inspect.Parameter]:
    parameters = inspect.signature(operation.method).parameters.values()
    return (parameter for parameter in parameters if parameter.name != "self")


def _parameter(operation: Operation, parameter: inspect.Parameter, said: dict[str, str]) -> str:
    where = ""
    if parameter.name in operation.path_parameters:
        where = " in the path"
    elif parameter.name == operation.body:
        where = ", the body"
    elif operation.body is not None:
        where = " in the query"
    default = "" if parameter.default is parameter.empty else f" = {parameter.default!r}"
    text = f": {said[parameter.name]}" if parameter.name in said else ""
    return f"- `{parameter.name}: {parameter.annotation}{default}`{where}{text}"


def _refusals(raises: dict[str, str]) -> Iterator[tuple[str, str]]:
    """The errors of the docstring that cross the wire; what Python raises for a wrong call is a 422 there."""
    return ((name, text) for name, text in raises.items() if hasattr(errors, name))


def _documentation(operation: Operation) -> str:
    return inspect.getdoc(operation.method) or ""


if __name__ == "__main__":
    sys.stdout.write(page())
