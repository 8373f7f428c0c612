"""The processes that `gateway.py` measures: a mock backend, the gateway with its store, and a pass-through.

Each prints its URLs as JSON and answers each line of its input with what it has used so far.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp

from agentlightning.llm_proxy import LLMProxy, ModelConfig
from agentlightning.serving import EmbeddedServer
from agentlightning.store import InMemoryLightningStore, LightningStore, SqliteLightningStore
from agentlightning.types.llm_call_span import REQUEST, RESPONSE_ID

PROMPT, SAMPLED = list(range(1000, 1256)), 64
TOKEN = {"token": "tok", "logprob": -0.25, "bytes": [116], "top_logprobs": []}


def answer(mark: str) -> bytes:
    """Return an answer of 256 prompt and 64 sampled tokens whose id is that of the request."""
    message = {"role": "assistant", "content": "The answer is forty two. " * 10}
    choice = {"index": 0, "finish_reason": "stop", "token_ids": list(range(2000, 2000 + SAMPLED)), "message": message}
    reply = {
        "id": mark,
        "object": "chat.completion",
        "created": 1,
        "model": "mock",
        "prompt_token_ids": PROMPT,
        "choices": [choice | {"logprobs": {"content": [TOKEN] * SAMPLED}}],
        "usage": {"prompt_tokens": 256, "completion_tokens": SAMPLED, "total_tokens": 256 + SAMPLED},
    }
    return json.dumps(reply).encode()


def chunk(mark: str, choices: list[Any], **more: Any) -> bytes:
    body = {"id": mark, "object": "chat.completion.chunk", "created": 1, "model": "mock", "choices": choices, **more}
    return b"data: " + json.dumps(body).encode() + b"\n\n"


async def serve_backend(gap_ms: float, chunks: int) -> None:
    whole = answer("@").split(b'"@"')
    one = {"index": 0, "delta": {"content": "word "}, "token_ids": [7], "logprobs": {"content": [TOKEN]}}
    middle = chunk("stream", [one | {"finish_reason": None}])
    first = chunk("stream", [{"index": 0, "delta": {"role": "assistant"}}], prompt_token_ids=PROMPT)
    usage = {"prompt_tokens": 256, "completion_tokens": chunks, "total_tokens": 256 + chunks}
    last = chunk("stream", [{"index": 0, "delta": {}, "finish_reason": "stop"}])
    last += chunk("stream", [], usage=usage) + b"data: [DONE]\n\n"

    async def stream(send: Any) -> None:
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for piece in (first, *[middle] * chunks):
            await send({"type": "http.response.body", "body": piece, "more_body": True})
            await asyncio.sleep(gap_ms / 1e3)
        await send({"type": "http.response.body", "body": last})

    async def app(scope: Any, receive: Any, send: Any) -> None:
        request = json.loads(await body_of(receive))
        if request.get("stream"):
            return await stream(send)
        mark = json.dumps(request.get("user", "mock")).encode()
        await respond(send, 200, whole[0] + mark + whole[1])

    await serve(app)


async def serve_bare(backend: str) -> None:
    """Pass everything on as it comes, and keep nothing: what any gateway costs that is made of the same parts."""
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=4.0)
    headers = {"content-type": "application/json"}
    async with aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar()) as session:

        async def app(scope: Any, receive: Any, send: Any) -> None:
            body = await body_of(receive)
            async with session.post(f"{backend}{scope['path']}", data=body, headers=headers) as reply:
                if reply.content_type != "text/event-stream":
                    return await respond(send, reply.status, await reply.read())
                start = [(b"content-type", b"text/event-stream")]
                await send({"type": "http.response.start", "status": reply.status, "headers": start})
                while piece := await reply.content.readany():
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
                await send({"type": "http.response.body", "body": b""})

        await serve(app)


async def serve_gateway(backend: str, store_kind: str, attempts: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        in_memory = store_kind == "memory"
        store = InMemoryLightningStore() if in_memory else SqliteLightningStore(str(Path(folder) / "store.db"))
        model: ModelConfig = {"model_name": "mock", "litellm_params": {"model": "mock", "api_base": f"{backend}/v1"}}
        proxy = LLMProxy(model_list=[model], store=store)
        await proxy.start()
        started = [await store.start_rollout(input=i) for i in range(attempts)]
        urls = [proxy.as_resource(each.rollout_id, each.attempt.attempt_id).endpoint for each in started]

        async def spans() -> int:
            return (await store.statistics()).get("total_spans") or 0

        async def recorded() -> list[list[list[str]]]:
            return [await marks(store, each.rollout_id) for each in started]

        await answer_lines(urls, {"spans": spans, "recorded": recorded})
        await proxy.stop()
        await store.close()


async def marks(store: LightningStore, rollout_id: str) -> list[list[str]]:
    """Return what requests and answers of a rollout are called, in the order of their numbers."""
    spans = await store.query_spans(rollout_id)
    in_order = sorted(spans, key=lambda span: span.sequence_id)
    return [[json.loads(str(span.attributes[REQUEST]))["user"], str(span.attributes[RESPONSE_ID])] for span in in_order]


async def body_of(receive: Any) -> bytes:
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            return body


async def respond(send: Any, status: int, body: bytes) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def serve(app: Any) -> None:
    server = EmbeddedServer(app)
    await server.start()
    await answer_lines([server.url], {})
    await server.stop()


async def answer_lines(urls: list[str], questions: dict[str, Callable[[], Awaitable[Any]]]) -> None:
    """Print the URLs, then what each line of the input asks for, until it ends."""
    print(json.dumps(urls), flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        question = questions.get(line.strip())
        said = await question() if question else {"cpu": time.process_time(), "rss_mb": resident_mb()}
        print(json.dumps(said), flush=True)


def resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("role", choices=["backend", "bare", "gateway"])
    parser.add_argument("--backend", default="")
    parser.add_argument("--store", choices=["memory", "file"], default="memory")
    parser.add_argument("--attempts", type=int, default=64)
    parser.add_argument("--gap-ms", type=float, default=0.0)
    parser.add_argument("--chunks", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.role == "backend":
        asyncio.run(serve_backend(arguments.gap_ms, arguments.chunks))
    elif arguments.role == "bare":
        asyncio.run(serve_bare(arguments.backend))
    else:
        asyncio.run(serve_gateway(arguments.backend, arguments.store, arguments.attempts))


if __name__ == "__main__":
    main()
