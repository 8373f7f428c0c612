"""An OpenAI-shaped server over a sampler."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from agentlightning.errors import AgentLightningError, PromptTooLong
from agentlightning.inference.api_key import ApiKeyGuard
from agentlightning.inference.chat import render_prompt
from agentlightning.inference.chunks import ChunkWriter, Parts
from agentlightning.inference.interleave import interleave
from agentlightning.inference.protocol import ChatRequest, CompletionRequest, GenerationRequest
from agentlightning.inference.replies import ReplyWriter
from agentlightning.inference.sampler import Completion, Sampler
from agentlightning.inference.sse import EventStreamResponse, dump_json, error_body
from agentlightning.inference.tokenizer import Tokenizer
from agentlightning.inference.tool_calls import find_tool_parser
from agentlightning.serving import CLIENT_LEFT, EmbeddedServer, answer_nobody, while_connected


def create_app(sampler: Sampler, tokenizer: Tokenizer, model_name: str, *, tool_parser: str = "hermes") -> Starlette:
    """Return an ASGI app with `/v1/chat/completions`, `/v1/completions`, `/v1/models` and `/health`.

    Replies, and the first chunk of a stream, carry `weights_version`; with `return_token_ids` they carry the exact
    tokens, each chunk those that it came with.

    Args:
        sampler: Answers the requests; whoever made it starts and stops it.
        tokenizer: With a chat template.
        model_name: The one name that requests may ask for.
        tool_parser: The form of the model's tool calls; see `register_tool_parser`.

    Raises:
        ConfigurationError: There is no such tool parser.
    """
    endpoints = _Endpoints(sampler, tokenizer, model_name, tool_parser)
    return Starlette(
        routes=[
            Route("/v1/chat/completions", endpoints.chat, methods=["POST"]),
            Route("/v1/completions", endpoints.completion, methods=["POST"]),
            Route("/v1/models", endpoints.models),
            Route("/health", endpoints.health),
        ],
        exception_handlers={
            AgentLightningError: _on_known_error,
            ValidationError: _on_invalid_body,
            HTTPException: _on_no_route,
            ClientDisconnect: answer_nobody,
            Exception: _on_fault,
        },
    )


class InferenceServer:
    """Serves `create_app` on the event loop that starts it.

    Args:
        sampler: Answers the requests; whoever made it starts and stops it.
        tokenizer: With a chat template.
        model_name: The one name that requests may ask for.
        host: Address to bind; loopback by default.
        port: Port to bind; 0 picks a free one.
        tool_parser: The form of the model's tool calls; see `register_tool_parser`.
        api_key: What clients must present as `Authorization: Bearer`; None lets everybody in who reaches the address.

    Raises:
        ConfigurationError: There is no such tool parser.
    """

    def __init__(
        self,
        sampler: Sampler,
        tokenizer: Tokenizer,
        model_name: str,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        tool_parser: str = "hermes",
        api_key: str | None = None,
    ) -> None:
        app = create_app(sampler, tokenizer, model_name, tool_parser=tool_parser)
        self._server = EmbeddedServer(ApiKeyGuard(app, api_key) if api_key else app, host, port)

    @property
    def url(self) -> str:
        """The bound address; OpenAI clients take `url + "/v1"` as their base URL."""
        return self._server.url

    async def start(self) -> None:
        """Bind and serve.

        Raises:
            ConfigurationError: The address cannot be bound.
        """
        await self._server.start()

    async def stop(self) -> None:
        """Let requests in flight end for a moment, then close."""
        await self._server.stop()


class _Endpoints:
    def __init__(self, sampler: Sampler, tokenizer: Tokenizer, model_name: str, tool_parser: str) -> None:
        self._sampler = sampler
        self._tokenizer = tokenizer
        self._model_name = model_name
        writing = (tokenizer, sampler.end_token_ids, find_tool_parser(tool_parser))
        self._replies = ReplyWriter(*writing)
        self._chunks = ChunkWriter(*writing)

    async def chat(self, http: Request) -> Response:
        request = ChatRequest.model_validate_json(await http.body())
        self._check(request)
        prompt = render_prompt(self._tokenizer, request.messages, request.offered_tools())
        if request.stream:
            return EventStreamResponse(self._chunks.chat(request, prompt, self._stream(prompt, request)))
        completions = await while_connected(http, self._generate(prompt, request))
        if completions is None:
            return Response(status_code=CLIENT_LEFT)
        return _reply(self._replies.chat(request, prompt, completions))

    async def completion(self, http: Request) -> Response:
        request = CompletionRequest.model_validate_json(await http.body())
        self._check(request)
        prompt = request.prompt if isinstance(request.prompt, list) else self._tokenizer.encode(request.prompt)
        if request.stream:
            return EventStreamResponse(self._chunks.completion(request, prompt, self._stream(prompt, request)))
        completions = await while_connected(http, self._generate(prompt, request))
        if completions is None:
            return Response(status_code=CLIENT_LEFT)
        return _reply(self._replies.completion(request, prompt, completions))

    async def models(self, _: Request) -> Response:
        model = {"id": self._model_name, "object": "model", "created": 0, "owned_by": "agentlightning"}
        return JSONResponse({"object": "list", "data": [model]})

    async def health(self, _: Request) -> Response:
        return JSONResponse({"status": "ok", "weights_version": self._sampler.weights_version})

    def _check(self, request: GenerationRequest) -> None:
        if request.model != self._model_name:
            raise HTTPException(404, f"no model {request.model!r} here: ask for {self._model_name!r}")
        request.check_supported()

    def _stream(self, prompt: Sequence[int], request: GenerationRequest) -> Parts:
        return interleave([self._sampler.stream(prompt, params) for params in request.sampling()])

    async def _generate(self, prompt: Sequence[int], request: GenerationRequest) -> list[Completion]:
        params = request.sampling()
        if len(params) == 1:
            return [await self._sampler.generate(prompt, params[0])]
        tasks = [asyncio.ensure_future(self._sampler.generate(prompt, each)) for each in params]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()


def _reply(content: dict[str, Any]) -> Response:
    return Response(dump_json(content), media_type="application/json")


def _error(status: int, message: str, code: str | None = None) -> Response:
    return JSONResponse(error_body(status, message, code), status)


async def _on_known_error(_: Request, error: Exception) -> Response:
    status = error.status if isinstance(error, AgentLightningError) else 500
    return _error(status, str(error), "context_length_exceeded" if isinstance(error, PromptTooLong) else None)


async def _on_invalid_body(_: Request, error: Exception) -> Response:
    assert isinstance(error, ValidationError)
    problems = [f"{'.'.join(map(str, e['loc'])) or 'body'}: {e['msg']}" for e in error.errors(include_url=False)]
    return _error(400, "; ".join(problems))


async def _on_no_route(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _error(error.status_code, error.detail, "not_found" if error.status_code == 404 else None)


async def _on_fault(_: Request, error: Exception) -> Response:
    # Starlette raises the error again once this is sent, and the server logs it with its traceback.
    return _error(500, f"the server failed: {type(error).__name__}")
