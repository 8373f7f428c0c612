"""How the arguments and the answer of an operation look in HTTP; both sides read it from the operation's signature."""

from __future__ import annotations

import functools
import inspect
import re
import typing
from collections.abc import Callable, Mapping, Sequence
from types import UnionType
from typing import Annotated, Any, Final, Literal, NotRequired, Required, cast, get_args, get_origin
from urllib.parse import parse_qs, quote

from pydantic import AfterValidator, BaseModel, ConfigDict, PlainValidator, TypeAdapter, ValidationError, WithJsonSchema
from pydantic_core import from_json, to_json
from typing_extensions import TypedDict

from agentlightning.errors import InvalidValue
from agentlightning.store.base import UNSET
from agentlightning.store.operations import Operation
from agentlightning.store.polls import waiting_parameter
from agentlightning.store.rollout_json import RolloutOfStore
from agentlightning.store.span_json import SpanOfStore, SpanOnTheWire, SpansOfRequest, SpansOnTheWire, values_of
from agentlightning.store.sql.checks import (
    check_integer,
    check_optional_text,
    check_optional_time,
    check_text,
    check_texts,
)
from agentlightning.types import (
    AttemptedRollout,
    EnqueueRolloutRequest,
    PaginatedResult,
    Resource,
    Rollout,
    Span,
    normalize_task_input,
)

_SCALARS: Final = frozenset({str, int, bool})
"""Types that JSON has, whatever the value."""
_ROLLOUTS: Final = frozenset({Rollout, AttemptedRollout})


class Wire:
    """The JSON of one operation.

    Args:
        operation: The operation, or another route to one.
    """

    def __init__(self, operation: Operation) -> None:
        self.operation: Final = operation
        signature = operation.signature
        parameters = {
            name: parameter
            for name, parameter in signature.parameters.items()
            if name not in operation.path_parameters and parameter.kind is not parameter.VAR_KEYWORD
        }
        self._body = parameters.pop(operation.body) if operation.body else None
        self.parameters: Final = parameters
        self._whole = TypeAdapter[Any](on_the_wire(self._body.annotation)) if self._body else None
        fields = {name: _field_of(operation, parameter) for name, parameter in parameters.items()}
        self._named = TypeAdapter[dict[str, Any]](_typed_dict(operation.name, fields))
        self._answer = TypeAdapter[Any](on_the_wire(signature.return_annotation, of_store=True))
        self.waits: Final = waiting_parameter(operation)
        self._checks = {
            name: check for name, parameter in parameters.items() if (check := _check_of(parameter.annotation))
        }
        self._path: Final = re.split(r"{(\w+)}", operation.path)
        self._lists = {name for name, parameter in parameters.items() if _is_sequence(parameter.annotation)}

    def encode_path(self, arguments: Mapping[str, Any]) -> str:
        """Return the path of a request.

        Raises:
            InvalidValue: An argument that stands in it is no text.
        """
        for name in self.operation.path_parameters:
            check_text(arguments[name], name)
        return "".join(_segment(arguments[part]) if i % 2 else part for i, part in enumerate(self._path))

    def encode_arguments(self, arguments: Mapping[str, Any]) -> tuple[bytes, dict[str, str]]:
        """Return the body and the query of a request; path parameters stand in neither.

        Raises:
            InvalidValue: An argument has no JSON form.
        """
        given: dict[str, Any] = {}
        for name, value in arguments.items():
            if value is UNSET or name in self.operation.path_parameters:
                continue
            if (check := self._checks.get(name)) is not None:
                check(value, name)
            given[name] = _plain_argument(value, name)
        if self.operation.body is None:
            return _json(given) if self.operation.verb == "POST" else b"", {}
        body = given.pop(self.operation.body)
        return _json(body), {name: str(value) for name, value in given.items() if value is not None}

    def decode_arguments(self, path: Mapping[str, str], query: str, body: bytes) -> dict[str, Any]:
        """Return the arguments that a request passes; a parameter that it does not name is left out.

        Raises:
            InvalidValue: They do not fit the signature.
        """
        try:
            if self._whole is not None:
                assert self.operation.body is not None
                named = self._named.validate_python(self._of_query(query))
                return {**path, **named, self.operation.body: self._whole.validate_json(body)}
            if self.operation.verb == "GET":
                return {**path, **self._named.validate_python(self._of_query(query))}
            return {**path, **self._named.validate_json(b"{}" if body in (b"", b"null") else body)}
        except ValidationError as error:
            raise InvalidValue(_explain(error)) from error

    def encode_answer(self, answer: Any) -> bytes:
        """Return the body of a response."""
        if self.operation.answer is not None:
            answer = {self.operation.answer: answer}
        return to_json(_plain_answer(answer))

    def decode_answer(self, body: bytes) -> Any:
        """Return what the operation returned.

        Raises:
            ValueError: It is no answer of this operation.
        """
        try:
            return self._answer.validate_python(from_json(body))
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"a span or a rollout in it does not have its form: {error!r}") from error

    def _of_query(self, query: str) -> dict[str, Any]:
        values = parse_qs(query, keep_blank_values=True)
        return {name: value if name in self._lists else value[-1] for name, value in values.items()}


@functools.cache
def wire_of(operation: Operation) -> Wire:
    """Return the JSON of an operation, built once."""
    return Wire(operation)


def _segment(value: str) -> str:
    """Return a value as one segment of a path, which no other route has: an id may be `search`, or `..`."""
    if value in {".", ".."}:
        return value.replace(".", "%2E")
    if value.isascii() and value.isalpha():
        return f"%{ord(value[0]):02X}{value[1:]}"
    return quote(value, safe="")


def _check_of(annotation: Any) -> Callable[[Any, str], object] | None:
    """Return what refuses values that the store would refuse, and its server's reader of JSON might convert."""
    kinds = set(get_args(annotation)) if _is_union(get_origin(annotation)) else {annotation}
    optional = type(None) in kinds
    if str in kinds:
        return check_optional_text if optional else check_text
    if float in kinds:
        return check_optional_time
    if int in kinds:
        return _check_optional_integer if optional else check_integer
    if any(get_origin(kind) in (list, Sequence) and get_args(kind)[0] is str for kind in kinds):
        return _check_optional_texts if optional else check_texts
    return None


def _check_optional_integer(value: Any, name: str) -> None:
    if value is not None:
        check_integer(value, name)


def _check_optional_texts(value: Any, name: str) -> None:
    if value is not None:
        check_texts(value, name)


def _plain_argument(value: Any, name: str) -> Any:
    try:
        return plain(value, name)
    except RecursionError as error:
        raise InvalidValue(f"{name} holds itself or is nested too deeply: flatten it") from error
    except InvalidValue:
        raise
    except ValueError as error:  # a pydantic model in it without a JSON form says so in its own words
        raise InvalidValue(f"{name} has no JSON form: {error}") from error


def plain(value: Any, name: str) -> Any:
    """Return an argument as values that JSON has.

    Raises:
        InvalidValue: It has no JSON form.
    """
    if value is None or type(value) in _SCALARS:
        return value
    if isinstance(value, Span):
        return values_of(value)
    if isinstance(value, SpansOnTheWire):
        return value.values
    if isinstance(value, EnqueueRolloutRequest):
        return {key: plain(item, f"{name}.{key}") for key, item in value}
    if isinstance(value, Resource):
        return value.model_dump(mode="json")
    if isinstance(value, BaseModel) and type(value).__module__.startswith("agentlightning.types"):
        return value
    if isinstance(value, (list, tuple)):
        return [plain(item, f"{name}[{i}]") for i, item in enumerate(cast("Sequence[Any]", value))]
    if isinstance(value, Mapping):
        values = cast("Mapping[Any, Any]", value)
        if any(isinstance(item, Resource) for item in values.values()):
            return {key: plain(item, f"{name}.{key}") for key, item in values.items()}
    return normalize_task_input(value, name)


def on_the_wire(annotation: Any, *, of_store: bool = False) -> Any:
    """Return an annotation whose spans are not validated in depth: a lenient producer's stay as they are.

    Args:
        annotation: The type.
        of_store: Whether a store wrote the JSON, so that its rollouts and spans are built as they are.
    """
    if annotation is Span:
        return SpanOfStore if of_store else SpanOnTheWire
    if annotation == Sequence[Span] and not of_store:
        return SpansOfRequest
    if of_store and _is_rollout(annotation):
        return RolloutOfStore
    if _is_model(annotation):
        return _model_on_the_wire(annotation, of_store=of_store) if _holds(annotation, of_store) else annotation
    origin: Any = get_origin(annotation)
    if origin is None or origin is Literal:
        return annotation
    inner: tuple[Any, ...] = tuple(on_the_wire(argument, of_store=of_store) for argument in get_args(annotation))
    return _union_of(inner) if _is_union(origin) else origin[inner]


def without_none(annotation: Any) -> Any:
    """Return an annotation that does not allow None."""
    if not _is_union(get_origin(annotation)):
        return annotation
    return _union_of([kind for kind in get_args(annotation) if kind is not type(None)])


def _union_of(kinds: Sequence[Any]) -> Any:
    union, *others = kinds
    for other in others:
        union |= other
    return union


def _model_on_the_wire(model: type[BaseModel], *, of_store: bool) -> Any:
    fields = {
        name: Required[on_the_wire(field.annotation, of_store=of_store)] for name, field in model.model_fields.items()
    }
    shape = TypeAdapter[dict[str, Any]](_typed_dict(model.__name__, fields))
    return Annotated[model, PlainValidator(lambda values: model.model_construct(**shape.validate_python(values)))]


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _holds(model: type[BaseModel], of_store: bool) -> bool:
    """Whether a model lists what is read in another way than by validation."""
    listed = [kind for field in model.model_fields.values() for kind in get_args(field.annotation)]
    return Span in listed or (of_store and any(map(_is_rollout, listed)))


def _is_rollout(annotation: Any) -> bool:
    return annotation in _ROLLOUTS or frozenset(get_args(annotation)) == _ROLLOUTS


def type_of(operation: Operation, parameter: inspect.Parameter) -> Any:
    """Return the type of a parameter in a request."""
    return PageLimit if operation.verb == "GET" and parameter.name == "limit" else parameter.annotation


def _field_of(operation: Operation, parameter: inspect.Parameter) -> Any:
    presence = Required if parameter.default is parameter.empty else NotRequired
    return presence[on_the_wire(type_of(operation, parameter))]


def _check_page_limit(limit: int) -> int:
    if limit < -1 or limit == 0:
        raise ValueError("use 1 or more, or -1 for all")
    return limit


PageLimit: Final = Annotated[
    int,
    AfterValidator(_check_page_limit),
    WithJsonSchema({"type": "integer", "minimum": -1, "not": {"const": 0}}),
]
"""How many items a page has, in v0.3's routes: a page of none was refused."""


def _typed_dict(name: str, fields: dict[str, Any]) -> Any:
    made = cast("Any", TypedDict)(name, fields)  # its checkers want literals, these are read from a signature
    made.__pydantic_config__ = ConfigDict(allow_inf_nan=False)
    return made


def _is_sequence(annotation: Any) -> bool:
    origin = get_origin(annotation)
    if _is_union(origin):
        return any(_is_sequence(argument) for argument in get_args(annotation))
    return isinstance(origin, type) and issubclass(origin, Sequence)


def _is_union(origin: Any) -> bool:
    return origin in (UnionType, typing.Union)  # noqa: TID251  # compared with, not written


def _plain_answer(answer: Any) -> Any:
    if isinstance(answer, Span):
        return values_of(answer)
    if isinstance(answer, PaginatedResult):
        page = cast("PaginatedResult[Any]", answer)
        items = [_plain_answer(item) for item in page.items]
        return {"items": items, "limit": page.limit, "offset": page.offset, "total": page.total}
    if isinstance(answer, (list, SpansOnTheWire)):
        return [_plain_answer(item) for item in cast("Sequence[Any]", answer)]
    if isinstance(answer, BaseModel) and isinstance(answer.__dict__.get("items"), list):
        return answer.__dict__ | {"items": [_plain_answer(item) for item in answer.__dict__["items"]]}
    return answer


def _json(value: Any) -> bytes:
    try:
        return to_json(value)
    except ValueError as error:  # pydantic's own errors are some
        raise InvalidValue(f"the arguments have no JSON form: {error}") from error


def _explain(error: ValidationError) -> str:
    return "; ".join(_problem(".".join(map(str, each["loc"])), each["msg"]) for each in error.errors()[:5])


def _problem(place: str, message: str) -> str:
    return f"{place}: {message}" if place else message
