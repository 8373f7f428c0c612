"""The OpenAPI description of a store's routes, read from its interface."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, Final

from pydantic import TypeAdapter
from pydantic.json_schema import JsonSchemaMode
from typing_extensions import TypedDict

import agentlightning
from agentlightning import errors
from agentlightning.errors import StoreError
from agentlightning.store.base import UNSET
from agentlightning.store.docstrings import parts_of
from agentlightning.store.limits import TooSlow
from agentlightning.store.operations import LONGEST_KEY, Operation, routes_of
from agentlightning.store.otlp.paths import OTHER_SIGNALS, TRACES_PATH
from agentlightning.store.route_table import HEALTH_PATH, PREFIX, WITHDRAW_PATH
from agentlightning.store.wire import type_of, without_none

_REFUSALS: Final[tuple[type[StoreError], ...]] = (
    errors.Unauthorized,
    errors.Forbidden,
    TooSlow,
    errors.TooLarge,
    errors.InvalidValue,
    errors.TooBusy,
    errors.StoreClosed,
)
_OF_BODIES: Final = (TooSlow, errors.TooLarge)
_KEY: Final[dict[str, Any]] = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "Names the request: sent again with the same key, it is answered and not repeated.",
    "schema": {"type": "string", "pattern": f"^[!-~]{{1,{LONGEST_KEY}}}$"},
}
_HEALTH: Final[dict[str, Any]] = {
    "get": {
        "operationId": "health",
        "summary": "Say that the server answers.",
        "security": [],
        "responses": {"200": {"description": "It does.", "content": {"application/json": {"schema": {}}}}},
    }
}
_WITHDRAW: Final[dict[str, Any]] = {
    "operationId": "withdraw",
    "summary": "Undo the claims of a request whose answer nobody heard.",
    "parameters": [_KEY | {"description": "The key of that request; without one nothing is undone."}],
}
_WITHDRAWN: Final[dict[str, Any]] = {
    "200": {"description": "Done.", "content": {"application/json": {"schema": {}}}},
}
_TRACES: Final[dict[str, Any]] = {
    "post": {
        "operationId": "export_traces",
        "summary": "Write OpenTelemetry spans (OTLP/HTTP).",
        "requestBody": {
            "required": True,
            "content": {"application/x-protobuf": {"schema": {}}, "application/json": {"schema": {"type": "object"}}},
        },
        "responses": {
            "200": {"description": "What could be written is; `partial_success` tells of the rest."},
            "400": {"description": "The body is no such request."},
            **{str(kind.status): {"description": inspect.getdoc(kind)} for kind in _REFUSALS},
        },
    }
}
_OTHER_SIGNAL: Final[dict[str, Any]] = {
    "security": [],
    "summary": "Refuse what is no trace.",
    "responses": {"501": {"description": "The store takes traces only."}},
}


class Error(TypedDict):
    """Why a request was refused: in words, and as the class of `agentlightning.errors` that the client raises."""

    detail: str
    error: str


def openapi_of(interface: type) -> dict[str, Any]:
    """Return the description of a store class's routes, as values that JSON has."""
    schemas = _Schemas()
    paths: dict[str, dict[str, Any]] = {HEALTH_PATH: _HEALTH}
    names: set[str] = set()
    for route in routes_of(interface):
        name = route.name if route.name not in names else f"{route.verb.lower()}_{route.name}"
        names.add(name)
        described = {"operationId": name, **_described(route, schemas)}
        paths.setdefault(PREFIX + route.path, {})[route.verb.lower()] = described
    of_all: dict[type[StoreError], str] = {kind: _says(kind) for kind in _REFUSALS if kind not in _OF_BODIES}
    withdrawn = _WITHDRAWN | _refused(of_all, schemas)
    paths |= {WITHDRAW_PATH: {"post": _WITHDRAW | {"responses": withdrawn}}, TRACES_PATH: _TRACES}
    for path in OTHER_SIGNALS:
        paths[path] = {"post": {"operationId": f"export_{path.rpartition('/')[2]}", **_OTHER_SIGNAL}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "agentlightning store", "version": agentlightning.__version__},
        "security": [{}, {"bearer": []}, {"key": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            },
            "schemas": schemas.fill(),
        },
    }


class _Schemas:
    """The JSON schemas of types, which share the models that they hold."""

    def __init__(self) -> None:
        self._asked: list[tuple[dict[str, Any], TypeAdapter[Any], JsonSchemaMode]] = []

    def of(self, annotation: Any, mode: JsonSchemaMode = "validation") -> dict[str, Any]:
        """Return what `fill` makes the schema of a type."""
        schema: dict[str, Any] = {}
        self._asked.append((schema, TypeAdapter(annotation), mode))
        return schema

    def fill(self) -> dict[str, Any]:
        """Fill all schemas; returns the models that they refer to, by name."""
        inputs: list[tuple[int, JsonSchemaMode, TypeAdapter[Any]]] = [
            (number, mode, adapter) for number, (_, adapter, mode) in enumerate(self._asked)
        ]
        made, models = TypeAdapter[Any].json_schemas(inputs, ref_template="#/components/schemas/{model}")
        for number, (schema, _, mode) in enumerate(self._asked):
            schema |= made[number, mode]
        return models.get("$defs", {})


def _described(route: Operation, schemas: _Schemas) -> dict[str, Any]:
    summary, _, rest = (inspect.getdoc(route.method) or "").partition("\n\n")
    described: dict[str, Any] = {"summary": summary.replace("\n", " ")}
    if rest:
        described["description"] = rest
    described["parameters"] = _parameters(route, schemas)
    if route.verb == "POST":
        described["requestBody"] = _body(route, schemas)
    return described | {"responses": _responses(route, schemas), "x-role": route.role}


def _parameters(route: Operation, schemas: _Schemas) -> list[dict[str, Any]]:
    parameters: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
        for name in route.path_parameters
    ]
    if route.verb == "GET" or route.body is not None:
        parameters += [
            {
                "name": each.name,
                "in": "query",
                "required": each.default is each.empty,
                "schema": _schema(route, each, schemas),
            }
            for each in _named(route)
        ]
    if route.keyed:
        parameters.append(_KEY)
    return parameters


def _body(route: Operation, schemas: _Schemas) -> dict[str, Any]:
    if route.body is not None:
        whole = schemas.of(route.signature.parameters[route.body].annotation)
        return {"required": True, "content": {"application/json": {"schema": whole}}}
    named = _named(route)
    required = [each.name for each in named if each.default is each.empty]
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {each.name: _schema(route, each, schemas) for each in named},
    }
    if required:
        schema["required"] = required
    return {"required": bool(required), "content": {"application/json": {"schema": schema}}}


def _named(route: Operation) -> list[inspect.Parameter]:
    """Return the parameters that are passed by name, in the query or in the body."""
    elsewhere = {*route.path_parameters, route.body}
    return [each for name, each in route.signature.parameters.items() if name not in elsewhere]


def _schema(route: Operation, parameter: inspect.Parameter, schemas: _Schemas) -> dict[str, Any]:
    kind = type_of(route, parameter)
    schema = schemas.of(without_none(kind) if route.verb == "GET" else kind)  # a query has no null
    if parameter.default is not parameter.empty and parameter.default is not UNSET and parameter.default is not None:
        schema["default"] = [] if parameter.default == () else parameter.default
    return schema


def _responses(route: Operation, schemas: _Schemas) -> dict[str, Any]:
    answer = schemas.of(route.signature.return_annotation, "serialization")
    if route.answer is not None:
        answer = {"type": "object", "properties": {route.answer: answer}, "required": [route.answer]}
    success = {"description": "Done.", "content": {"application/json": {"schema": answer}}}
    refusals: dict[type[StoreError], str] = {kind: _says(kind) for kind in _REFUSALS}
    if route.none_status == errors.NotFound.status:
        refusals[errors.NotFound] = _says(errors.NotFound)
    for name, text in parts_of(inspect.getdoc(route.method) or "")[2].items():
        if (kind := getattr(errors, name, None)) is not None:
            refusals[kind] = text
    return {str(route.status): success} | _refused(refusals, schemas)


def _says(kind: type[StoreError]) -> str:
    return inspect.getdoc(kind) or ""


def _refused(refusals: Mapping[type[StoreError], str], schemas: _Schemas) -> dict[str, Any]:
    texts: dict[int, list[str]] = {}
    for kind, text in refusals.items():
        texts.setdefault(kind.status, []).append(text)
    content = {"application/json": {"schema": schemas.of(Error)}}
    return {str(status): {"description": " ".join(texts[status]), "content": content} for status in sorted(texts)}
