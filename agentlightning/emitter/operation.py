"""Operations: a function or a block of an agent as a span with its inputs and its output."""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar, cast, overload

from agentlightning.emitter.calls import recorded
from agentlightning.emitter.capture import Capture
from agentlightning.emitter.target import target_tracer, tracer_here
from agentlightning.semconv import AGL_OPERATION, LightningSpanAttributes
from agentlightning.types import Attributes, SpanCoreFields, SpanRecordingContext
from agentlightning.types.attributes import flatten_attributes, sanitize_attributes

if TYPE_CHECKING:
    from agentlightning.tracer.base import Redact

logger = logging.getLogger(__name__)

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])

_NAME = LightningSpanAttributes.OPERATION_NAME.value
_INPUT = LightningSpanAttributes.OPERATION_INPUT.value
_OUTPUT = LightningSpanAttributes.OPERATION_OUTPUT.value
_BOUND_TO = ("self", "cls")


class OperationContext:
    """A block recorded as a span, by `with`; called with a function, it decorates that.

    Args:
        name: The name of the span.
        attributes: Its first attributes; nested values get dotted keys.
        propagate: Record it in the active trace, if there is one.
    """

    def __init__(self, name: str, attributes: dict[str, Any], propagate: bool = True) -> None:
        self.name = name
        self._attributes = attributes
        self._propagate = propagate
        self._context: AbstractContextManager[SpanRecordingContext] | None = None
        self._recording: SpanRecordingContext | None = None
        self._items: Capture | None = None
        self._item_count = 0
        self._span: SpanCoreFields | None = None

    def __call__(self, fn: FunctionT) -> FunctionT:
        """Return the function with every call recorded in a block of its own."""
        if isinstance(fn, (staticmethod, classmethod)):
            bound = cast("staticmethod[..., Any] | classmethod[Any, ..., Any]", fn)
            return cast("FunctionT", type(bound)(self(bound.__func__)))
        attributes = {_NAME: getattr(fn, "__name__", type(fn).__name__), **self._attributes}
        open_block = functools.partial(OperationContext, self.name, attributes, self._propagate)
        return cast("FunctionT", recorded(fn, open_block))

    def __enter__(self) -> OperationContext:
        if self._context is not None:
            raise RuntimeError("this operation is open already: write operation(...) anew for a block inside it")
        # The tracer is looked up here, not when a decorator is applied: modules are imported outside of any trace.
        self._context = target_tracer(self._propagate).operation_context(
            self.name, sanitize_attributes(flatten_attributes(self._attributes))
        )
        self._recording = self._context.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        context, recording = self._context, self._recording
        assert context is not None
        assert recording is not None
        if self._items is not None:
            recording.record_attributes(self._items.attributes)
        self._context = self._recording = self._items = None
        try:
            context.__exit__(kind, error, traceback)
        finally:
            self._span = recording.get_recorded_span()

    def span(self) -> SpanCoreFields:
        """Return what was recorded.

        Raises:
            RuntimeError: The block is not over.
        """
        if self._span is None:
            raise RuntimeError("the operation has no span before its block is over")
        return self._span

    def set_input(self, *args: Any, **kwargs: Any) -> None:
        """Record inputs: positional ones as `input.args.<i>`, named ones as `input.<name>`.

        Raises:
            RuntimeError: Outside of the block.
        """
        self._record([value] for value in [*_numbered(f"{_INPUT}.args", args), *_named(_INPUT, kwargs)])

    def set_call(self, signature: inspect.Signature, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Record the arguments of a call by parameter name; the instance or class a method belongs to is left out.

        Raises:
            RuntimeError: Outside of the block.
        """
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError:  # the call itself will raise it; the span should still show what was passed
            self._record([_numbered(f"{_INPUT}.args", args), _named(f"{_INPUT}.kwargs", kwargs)])
            return
        bound.apply_defaults()
        values: list[list[tuple[str, Any]]] = []
        for position, (name, value) in enumerate(bound.arguments.items()):
            several = signature.parameters[name].kind is inspect.Parameter.VAR_POSITIONAL
            if position or name not in _BOUND_TO:
                values.append(_numbered(f"{_INPUT}.{name}", value) if several else [(f"{_INPUT}.{name}", value)])
        self._record(values)

    def set_output(self, output: Any) -> None:
        """Record the output.

        Raises:
            RuntimeError: Outside of the block.
        """
        self._record([[(_OUTPUT, output)]])

    def add_output(self, item: Any) -> None:
        """Record one of several outputs, such as the items of a generator, as `output.<i>`; they share one limit.

        Raises:
            RuntimeError: Outside of the block.
        """
        if self._items is None:
            self._record([])
            self._items = Capture(_redaction())
        self._items.add(f"{_OUTPUT}.{self._item_count}", item)
        self._item_count += 1

    def _record(self, shares: Iterable[list[tuple[str, Any]]]) -> None:
        """Record values by key; those of one share have one limit together."""
        if self._recording is None:
            raise RuntimeError("an operation records inputs and outputs only inside its block")
        attributes: Attributes = {}
        redact = _redaction()
        for share in shares:
            capture = Capture(redact)
            for key, value in share:
                try:
                    capture.add(key, value)
                except Exception:
                    # Whatever a user's function takes has attributes: recording must not fail the call.
                    logger.exception("%s of an operation could not be recorded whole", key)
            attributes |= capture.attributes
        self._recording.record_attributes(attributes)


@overload
def operation(fn: FunctionT, *, propagate: bool = True, name: str | None = None, **attributes: Any) -> FunctionT: ...
@overload
def operation(
    fn: None = None, *, propagate: bool = True, name: str | None = None, **attributes: Any
) -> OperationContext: ...
def operation(fn: Any = None, *, propagate: bool = True, name: str | None = None, **attributes: Any) -> Any:
    """Record a function or a block as a span.

    Write `@operation` or `@operation(name=…)` above a function, `with operation(…) as op:` around a block. A function
    records its arguments by parameter name and its result, a block what `op.set_input` and `op.set_output` are given.
    Of one argument (`*args` are one) and of one result 64 KiB are kept, and what is cut says so. What is secret, the
    tracer's `redact` takes out.

    Args:
        fn: The function to decorate.
        propagate: Record in the active trace, if there is one.
        name: What the operation is called; the function's name by default.
        **attributes: More attributes; nested values get dotted keys.

    Raises:
        ValueError: `fn` is no function, or the name is given twice.
    """
    if isinstance(fn, type):
        raise ValueError(f"operation takes a function, not the class {fn.__name__}; decorate its methods")
    if fn is not None and not callable(fn) and not isinstance(fn, classmethod):
        raise ValueError(f"operation takes a function, not a {type(fn).__name__}; give attributes by name")
    if name is not None and _NAME in attributes:
        raise ValueError(f"the name is given twice: name={name!r} and {_NAME}={attributes[_NAME]!r}")
    if name is not None:
        attributes[_NAME] = name
    block = OperationContext(AGL_OPERATION, attributes, propagate)
    return block if fn is None else block(cast("Callable[..., Any]", fn))


def _redaction() -> Redact | None:
    tracer = tracer_here()
    return tracer.redact if tracer else None


def _numbered(key: str, values: Iterable[Any]) -> list[tuple[str, Any]]:
    return [(f"{key}.{index}", value) for index, value in enumerate(values)]


def _named(key: str, values: dict[str, Any]) -> list[tuple[str, Any]]:
    return [(f"{key}.{name}", value) for name, value in values.items()]
