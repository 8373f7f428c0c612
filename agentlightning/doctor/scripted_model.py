"""A model server that says what a script tells it: no weights, no key, no chance."""

from __future__ import annotations

import itertools
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any, Self, cast

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from agentlightning.doctor.script import Reply, Script, as_script
from agentlightning.doctor.tokens import encode, render_prompt
from agentlightning.doctor.wire import Answer, Json, chat_completion, chat_stream, text_completion
from agentlightning.errors import InvalidRequest
from agentlightning.execution.loop_thread import Cancellable, run_blocking
from agentlightning.llm_proxy import ModelConfig
from agentlightning.serving import EmbeddedServer, ServerThread, answer_nobody


class ScriptedModel:
    """Serves a script as an OpenAI-shaped model on loopback, in a thread of its own, inside `with` or `async with`.

    Answers are the same each time. Log-probabilities and exact tokens come when asked for (`logprobs`, and vLLM's
    `return_token_ids`), and a history that an agent gives back unchanged keeps its tokens.

    Args:
        replies: A function from a request to its answer, called in the server's thread; a list that is gone through
            again and again; None to call each offered tool once and then to answer in words.
        name: The model's name; requests may carry any.
        token_ids: Whether the exact tokens are named; many servers never do.
        stream_token_ids: Whether they are named in streams as well.
        retokenise: Whether earlier answers in a history get other tokens than were sampled.

    Attributes:
        requests: The bodies of all model calls, in the order in which they came.
        unknown_paths: Where else was asked, and answered with status 404: other protocols, usually.

    Raises:
        ValueError: The list of replies is empty.
    """

    def __init__(
        self,
        replies: Script | Sequence[str | Reply] | None = None,
        *,
        name: str = "scripted",
        token_ids: bool = True,
        stream_token_ids: bool = True,
        retokenise: bool = False,
    ) -> None:
        self.requests: list[Json] = []
        self.unknown_paths: list[str] = []
        self.name = name
        self._script = as_script(replies)
        self._token_ids = token_ids
        self._stream_token_ids = stream_token_ids
        self._retokenise = retokenise
        self._numbers = itertools.count(1)
        routes = [
            Route("/v1/chat/completions", self._chat, methods=["POST"]),
            Route("/v1/completions", self._complete, methods=["POST"]),
            Route("/v1/models", self._models),
            Route("/v1/models/{name:path}", self._model),
            Route("/tokenize", self._tokenize, methods=["POST"]),
            Route("/{path:path}", self._unknown, methods=["GET", "POST"]),
        ]
        app = Starlette(routes=routes, exception_handlers={InvalidRequest: _refuse, ClientDisconnect: answer_nobody})
        self._server = ServerThread(EmbeddedServer(app), "agl-scripted-model")

    @property
    def url(self) -> str:
        """The base URL for OpenAI clients, ending in `/v1`."""
        return f"{self._server.url}/v1"

    @property
    def model_list(self) -> list[ModelConfig]:
        """What an `LLMProxy` needs in order to stand in front of this model."""
        parameters = {"model": f"hosted_vllm/{self.name}", "api_base": self.url}
        return [{"model_name": self.name, "litellm_params": parameters}]

    async def start(self) -> None:
        """Serve; returns when connections are accepted."""
        await self._server.start()

    async def stop(self) -> None:
        """Close."""
        await self._server.stop()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def __enter__(self) -> Self:
        run_blocking(Cancellable(self.start))
        return self

    def __exit__(self, *_: object) -> None:
        run_blocking(Cancellable(self.stop))

    async def _chat(self, request: Request) -> Response:
        payload = await self._read(request)
        prompt = render_prompt(_conversation(payload), payload.get("tools"), retokenise=self._retokenise)
        if payload.get("stream"):
            answer = self._answer(payload, prompt, self._token_ids and self._stream_token_ids)
            return StreamingResponse(_events(answer), media_type="text/event-stream")
        return JSONResponse(chat_completion(self._answer(payload, prompt, self._token_ids)))

    async def _complete(self, request: Request) -> Response:
        payload = await self._read(request)
        if payload.get("stream"):
            raise InvalidRequest("completions are not streamed here: send stream=false, or use chat completions")
        prompt = payload.get("prompt") or ""
        tokens = encode(prompt) if isinstance(prompt, str) else cast("list[int]", prompt)
        conversation = payload | {"messages": [{"role": "user", "content": prompt}]}
        return JSONResponse(text_completion(self._answer(conversation, tokens, self._token_ids)))

    async def _tokenize(self, request: Request) -> Response:
        payload = await _json_object(request)
        tokens = render_prompt(_conversation(payload), payload.get("tools"), retokenise=self._retokenise)
        return JSONResponse({"count": len(tokens), "tokens": tokens})

    async def _models(self, _: Request) -> Response:
        return JSONResponse({"object": "list", "data": [_card(self.name)]})

    async def _model(self, request: Request) -> Response:
        return JSONResponse(_card(request.path_params["name"]))

    async def _unknown(self, request: Request) -> Response:
        self.unknown_paths.append(request.url.path)
        return _error(404, f"the scripted model does not serve {request.url.path}: use /v1/chat/completions")

    async def _read(self, request: Request) -> Json:
        payload = await _json_object(request)
        self.requests.append(payload)
        return payload

    def _answer(self, payload: Json, prompt: Sequence[int], token_ids: bool) -> Answer:
        replies = [self._script(payload) for _ in range(payload.get("n") or 1)]
        full = [Reply(reply) if isinstance(reply, str) else reply for reply in replies]
        return Answer(f"{self.name}-{next(self._numbers)}", payload, prompt, full, token_ids)


def _card(name: str) -> Json:
    return {"id": name, "object": "model", "created": 0, "owned_by": "agentlightning"}


async def _refuse(_: Request, error: Exception) -> Response:
    return _error(400, str(error))


def _error(status: int, message: str) -> Response:
    body = {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": None}}
    return JSONResponse(body, status)


async def _json_object(request: Request) -> Json:
    try:
        payload = json.loads(await request.body())
    except ValueError:
        payload = None
    if not isinstance(payload, dict):
        raise InvalidRequest("the request's body must be a JSON object")
    return cast("Json", payload)


def _conversation(payload: Json) -> list[Json]:
    messages = payload.get("messages")
    if isinstance(messages, list) and messages:
        given = cast("list[Any]", messages)
        if all(isinstance(each, dict) and "role" in each for each in given):
            return cast("list[Json]", messages)
    raise InvalidRequest("messages must be a list of objects that is not empty, each with a role")


async def _events(answer: Answer) -> AsyncIterator[str]:
    for event in chat_stream(answer):
        yield event
