"""`agl serve`: a model of this machine behind an OpenAI-shaped API."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agentlightning._internal.defaults import INFERENCE_PORT
from agentlightning.cli.interrupt import interrupt_exits_at_once
from agentlightning.cli.serving import checked_level, run_server, termination
from agentlightning.errors import ConfigurationError
from agentlightning.extras import needed_for

if TYPE_CHECKING:
    from agentlightning.inference import Engine, InferenceServer, Tokenizer


class DType(StrEnum):
    """Numbers that the engine computes with."""

    float32 = "float32"
    bfloat16 = "bfloat16"


def serve_model(
    folder: Annotated[
        Path,
        typer.Argument(metavar="MODEL_DIR", help="A Hugging Face folder: config.json, weights, and a tokenizer."),
    ],
    model_name: Annotated[
        str | None, typer.Option(help="What requests call the model; the folder's name by default.")
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to bind; 0.0.0.0 lets other machines in, with a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to bind; 0 picks a free one.")] = INFERENCE_PORT,
    max_batch_size: Annotated[
        int, typer.Option(min=1, help="Most answers that are sampled at a time; further requests wait.")
    ] = 64,
    max_kept_mb: Annotated[
        int,
        typer.Option(min=0, help="Most memory for what was computed of earlier turns, which the next ones go on from."),
    ] = 256,
    device: Annotated[str, typer.Option(help="A torch device; auto takes the GPU if there is one.")] = "auto",
    dtype: Annotated[DType, typer.Option(help="bfloat16 takes half the memory.")] = DType.float32,
    tool_parser: Annotated[str, typer.Option(help="The form of the model's tool calls.")] = "hermes",
    api_key: Annotated[
        str | None,
        typer.Option(
            help="What clients must present; `agl proxy` reads the same variable. Made and printed if other machines "
            "can reach --host and there is none.",
            envvar="AGL_BACKEND_KEY",
        ),
    ] = None,
    log_level: Annotated[str, typer.Option(help="DEBUG, INFO, WARNING or ERROR.")] = "INFO",
) -> None:
    """Serve a model with OpenAI's Chat Completions and Completions until Ctrl+C, for small models and few machines.

    Answers stream, with tool calls as they are written; with return_token_ids they carry the exact tokens, as vLLM's
    do. Needs the extra `train`.

    Example: agl serve models/my-model

    Example: agl serve models/my-model --port 8000 --device cpu --max-batch-size 16
    """
    with interrupt_exits_at_once(), needed_for("agl serve"):  # for imports, which take seconds
        from agentlightning.logging import setup_logging
        from agentlightning.serving import check_address, is_loopback
        from agentlightning.store.tokens import check_secret, generate_token

        setup_logging(checked_level(log_level))
        if api_key is not None:
            check_secret(api_key)
        if not (folder / "config.json").is_file():
            raise ConfigurationError(f"there is no model in {folder}: name the folder that holds its config.json")
        check_address(host, port)
        key = api_key or (None if is_loopback(host) else generate_token())
        name = model_name or folder.resolve().name

        from agentlightning.inference import InferenceServer  # with torch, after all that is wrong without it

        engine, tokenizer, place = _load(folder, device, dtype, max_batch_size, max_kept_mb)
        server = InferenceServer(engine, tokenizer, name, host, port, tool_parser=tool_parser, api_key=key)
    run_server(_serve(engine, server, f"{name} on {place}", None if api_key else key))


def _load(
    folder: Path, device: str, dtype: DType, max_batch_size: int, max_kept_mb: int
) -> tuple[Engine, Tokenizer, str]:
    """Make an engine of what lies in a folder; returns with it the tokenizer, and what it runs on."""
    from agentlightning.inference import Engine
    from agentlightning.learner.model import load_model, load_tokenizer

    tokenizer, model = load_tokenizer(folder), load_model(folder, device)
    if dtype is DType.bfloat16:
        model = model.bfloat16()
    engine = Engine(model, tokenizer, max_batch_size=max_batch_size, kept_bytes=max_kept_mb * 2**20)
    return engine, tokenizer, str(model.device)


async def _serve(engine: Engine, server: InferenceServer, what: str, new_key: str | None) -> None:
    asked_to_stop = termination()
    async with AsyncExitStack() as stack:
        engine.start()
        stack.push_async_callback(asyncio.to_thread, engine.stop)
        await server.start()
        stack.push_async_callback(server.stop)
        typer.echo(_greeting(server.url, what, new_key))
        await asked_to_stop.wait()


def _greeting(url: str, what: str, new_key: str | None) -> str:
    lines = [
        f"Serving {what}.",
        f"Clients: OPENAI_BASE_URL={url}/v1",
        f"To record their calls: agl proxy --backend {url}/v1 --store agl-store.db",
    ]
    if new_key is not None:
        lines.append(f"The key, made for this run, for clients and gateways: AGL_BACKEND_KEY={new_key}")
    return "\n".join([*lines, "Ctrl+C stops it."])
