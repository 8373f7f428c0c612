"""An OpenAI-shaped backend that answers as a test says."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from agentlightning.llm_proxy import ModelConfig
from agentlightning.serving import EmbeddedServer

Json = dict[str, Any]


class ScriptedBackend:
    """Answers every call with the next tokens, unless `script` says otherwise."""

    def __init__(self) -> None:
        self.requests: list[Json] = []
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.models: list[str] | None = None
        self.script: Callable[[Json], Response] | None = None
        self.gate = asyncio.Event()
        self.gate.set()
        self.asked = asyncio.Event()
        self.abandoned = asyncio.Event()
        route = Route("/v1/{path:path}", self._serve, methods=["GET", "POST"])
        self.server = EmbeddedServer(Starlette(routes=[route]))

    @property
    def model_config(self) -> ModelConfig:
        return {
            "model_name": "policy",
            "litellm_params": {"model": "hosted_vllm/org/net", "api_base": f"{self.server.url}/v1"},
        }

    async def _serve(self, request: Request) -> Response:
        self.headers.append(dict(request.headers))
        self.paths.append(request.url.path)
        if request.method == "GET" and self.models is not None and request.url.path == "/v1/models":
            return JSONResponse({"object": "list", "data": [{"id": name} for name in self.models]})
        if request.method == "GET":
            return JSONResponse({"path": request.url.path, "query": request.url.query})
        payload = json.loads(await request.body())
        self.requests.append(payload)
        self.asked.set()
        gate, gone = asyncio.create_task(self.gate.wait()), asyncio.create_task(request.receive())
        await asyncio.wait({gate, gone}, return_when=asyncio.FIRST_COMPLETED)
        if gone.done():
            self.abandoned.set()
        gate.cancel()
        gone.cancel()
        return self.script(payload) if self.script else JSONResponse(answer(payload, len(self.requests)))


def answer(payload: Json, number: int) -> Json:
    """The reply to call `number`: prompt and answer have tokens that no other call has."""
    choices: list[Json] = [
        {
            "index": i,
            "finish_reason": "stop",
            "message": {"role": "assistant", "content": f"answer {number}.{i}"},
            "token_ids": [number * 100 + i, number * 100 + 50 + i],
            "logprobs": {"content": [{"token": "x", "logprob": -0.5}, {"token": "y", "logprob": -0.25}]},
        }
        for i in range(payload.get("n", 1))
    ]
    return {
        "id": f"chatcmpl-{number}",
        "object": "chat.completion",
        "created": 1,
        "model": payload["model"],
        "prompt_token_ids": [number, number + 1],
        "choices": choices,
        "usage": {"prompt_tokens": 2, "completion_tokens": 2, "total_tokens": 4},
        "weights_version": 3,
    }
