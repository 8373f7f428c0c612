"""Functions of every kind, wrapped so that each call is recorded in a block of its own."""

from __future__ import annotations

import contextvars
import functools
import inspect
import types
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from agentlightning.emitter.operation import OperationContext


def recorded(fn: Callable[..., Any], open_block: Callable[[], OperationContext]) -> Callable[..., Any]:
    """Return the function with each call recorded; a generator's span covers its whole iteration."""
    body = _body(fn)
    if inspect.isasyncgenfunction(body):
        wrap = _async_generator
    elif inspect.isgeneratorfunction(body):
        wrap = _generator
    else:
        wrap = _coroutine if inspect.iscoroutinefunction(body) else _plain
    return functools.wraps(fn)(wrap(fn, inspect.signature(fn), open_block))


def _body(fn: Callable[..., Any]) -> Any:
    """What runs when it is called; of an object that can be called, its method."""
    is_function = inspect.isroutine(fn) or isinstance(fn, (functools.partial, type))
    return cast("Any", fn if is_function else fn.__call__)


def _plain(
    fn: Callable[..., Any], signature: inspect.Signature, open_block: Callable[[], OperationContext]
) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        with open_block() as block:
            block.set_call(signature, args, kwargs)
            result = fn(*args, **kwargs)
            block.set_output(result)
            return result

    return call


def _coroutine(
    fn: Callable[..., Any], signature: inspect.Signature, open_block: Callable[[], OperationContext]
) -> Callable[..., Any]:
    async def call(*args: Any, **kwargs: Any) -> Any:
        with open_block() as block:
            block.set_call(signature, args, kwargs)
            result = await fn(*args, **kwargs)
            block.set_output(result)
            return result

    return call


def _generator(
    fn: Callable[..., Any], signature: inspect.Signature, open_block: Callable[[], OperationContext]
) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        # Between two items the consumer runs: the block is open in a context of the generator's own, so that what the
        # consumer does is not recorded below it.
        context = contextvars.copy_context()
        block = open_block()
        context.run(block.__enter__)
        try:
            block.set_call(signature, args, kwargs)
            generator = fn(*args, **kwargs)
            advance = functools.partial(generator.send, None)
            while True:
                item = context.run(advance)
                block.add_output(item)
                advance = yield from _next_step(generator, item, context)
        except StopIteration as stop:
            context.run(block.__exit__, None, None, None)
            return stop.value
        except GeneratorExit:
            context.run(block.__exit__, None, None, None)
            raise
        except BaseException as error:
            context.run(block.__exit__, type(error), error, error.__traceback__)
            raise

    return call


def _next_step(
    generator: Generator[Any, Any, Any], item: Any, context: contextvars.Context
) -> Generator[Any, Any, Callable[[], Any]]:
    """Hand an item to the consumer, and return how the generator goes on with what the consumer answers."""
    try:
        sent = yield item
    except GeneratorExit:
        context.run(generator.close)
        raise
    except BaseException as error:  # noqa: BLE001  # thrown in by the consumer: it is the generator's to handle
        return functools.partial(generator.throw, error)
    return functools.partial(generator.send, sent)


def _async_generator(
    fn: Callable[..., Any], signature: inspect.Signature, open_block: Callable[[], OperationContext]
) -> Callable[..., Any]:
    async def call(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        context = contextvars.copy_context()
        block = open_block()
        context.run(block.__enter__)
        try:
            block.set_call(signature, args, kwargs)
            generator = fn(*args, **kwargs)
            advance = functools.partial(generator.asend, None)
            while True:
                item = await _within(context, advance)
                block.add_output(item)
                try:
                    sent = yield item
                except GeneratorExit:
                    await _within(context, generator.aclose)
                    raise
                except BaseException as error:  # noqa: BLE001  # thrown in by the consumer, as above
                    advance = functools.partial(generator.athrow, error)
                else:
                    advance = functools.partial(generator.asend, sent)
        except StopAsyncIteration:
            context.run(block.__exit__, None, None, None)
        except GeneratorExit:
            context.run(block.__exit__, None, None, None)
            raise
        except BaseException as error:
            context.run(block.__exit__, type(error), error, error.__traceback__)
            raise

    return call


@types.coroutine
def _within(context: contextvars.Context, start: Callable[[], Awaitable[Any]]) -> Generator[Any, Any, Any]:
    """Await something with each of its steps run in the context."""
    steps: Any = context.run(start).__await__()
    advance = functools.partial(steps.send, None)
    while True:
        try:
            awaited = context.run(advance)
        except StopIteration as stop:
            return stop.value
        try:
            answer = yield awaited
        except BaseException as error:  # noqa: BLE001  # such as a cancellation: it goes to what is awaited
            advance = functools.partial(steps.throw, error)
        else:
            advance = functools.partial(steps.send, answer)
