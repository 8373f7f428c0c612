"""`agl proxy`: the gateway as a process of its own."""

from __future__ import annotations

from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from agentlightning._internal.defaults import GATEWAY_PORT, NAMESPACE
from agentlightning._internal.heap import settled_heap
from agentlightning.cli.interrupt import interrupt_exits_at_once
from agentlightning.cli.serving import checked_level, run_server, secret_for, termination

if TYPE_CHECKING:
    from collections.abc import Callable

    from agentlightning.llm_proxy import LLMProxy, ModelConfig
    from agentlightning.store import LightningStore

JOURNAL: Final = Path("agl-journal")


def proxy(
    backend: Annotated[
        list[str],
        typer.Option(
            metavar="URL",
            help="Base URL of an OpenAI-shaped model server; repeat for replicas, which share the calls of a model.",
        ),
    ],
    store: Annotated[
        str,
        typer.Option(
            metavar="URL|FILE",
            help="Where calls are recorded: the address of a store's server, a SQLite file (made if missing), or "
            "postgresql://user:password@host/database.",
        ),
    ],
    model: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A model of the backends; by default all that they list when this starts."),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to bind; 0.0.0.0 lets other machines in, with a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to bind; 0 picks a free one.")] = GATEWAY_PORT,
    journal: Annotated[
        Path,
        typer.Option(
            metavar="DIR",
            help="Where calls wait for the store; they outlive this process, and the next one writes them. Not for "
            "two gateways at a time.",
        ),
    ] = JOURNAL,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds within which a backend must answer.")] = 600.0,
    num_retries: Annotated[
        int, typer.Option(min=0, help="How often a call that a backend refused for now is made again.")
    ] = 2,
    api_key: Annotated[
        str | None,
        typer.Option(
            help="What the backends want; what agents send is passed on without it.", envvar="AGL_BACKEND_KEY"
        ),
    ] = None,
    namespace: Annotated[str, typer.Option(help="PostgreSQL: which of the stores in the database.")] = NAMESPACE,
    token: Annotated[
        str | None,
        typer.Option(
            help="The store's; agents present those of their attempts. AGL_TOKEN keeps it out of sight. Made and "
            "printed if other machines can reach --host and there is none."
        ),
    ] = None,
    log_level: Annotated[str, typer.Option(help="DEBUG, INFO, WARNING or ERROR.")] = "INFO",
) -> None:
    """Record the model calls of any program, in front of an OpenAI-shaped server, until Ctrl+C.

    Only the program's base URL changes: it names the attempt that the calls belong to. Answers never wait for the
    store; what was recorded is shipped when this ends, or by the next gateway with the same --journal.

    Example: agl proxy --backend http://localhost:8000/v1 --store http://localhost:4747

    Example: agl proxy --backend http://gpu1:8000/v1 --backend http://gpu2:8000/v1 --model my-model --store agl-store.db
    """
    with interrupt_exits_at_once():  # for imports, which take a while
        from agentlightning.cli.proxy_backends import base_url_of
        from agentlightning.logging import setup_logging
        from agentlightning.serving import check_address

        setup_logging(checked_level(log_level))
        # All that can be wrong is looked at before a file is made.
        secret, new_token = secret_for(host, token)
        backends = [base_url_of(url) for url in backend]
        check_address(host, port)
        opened = partial(_open, store, namespace, secret)
        gateway_of = partial(_gateway, host, port, journal, timeout, num_retries, secret)
    run_server(_serve(opened, gateway_of, backends, model or [], api_key, new_token))


async def _serve(
    opened: Callable[[], tuple[LightningStore, str]],
    gateway_of: Callable[[list[ModelConfig], LightningStore], LLMProxy],
    backends: list[str],
    models: list[str],
    api_key: str | None,
    new_token: str | None,
) -> None:
    from agentlightning.cli.proxy_backends import model_list_of

    asked_to_stop = termination()
    model_list = await model_list_of(backends, models, api_key)
    async with AsyncExitStack() as stack:
        store, place = opened()
        stack.push_async_callback(store.close)
        gateway = gateway_of(model_list, store)
        stack.push_async_callback(gateway.stop)
        await gateway.start()
        stack.enter_context(settled_heap())
        typer.echo(_greeting(gateway, backends, place, new_token))
        await asked_to_stop.wait()


def _open(location: str, namespace: str, secret: str | None) -> tuple[LightningStore, str]:
    """Open the store, and say where it is."""
    from agentlightning.store import LightningStoreClient
    from agentlightning.store.opening import open_store, shown_location

    if location.startswith(("http://", "https://")):
        return LightningStoreClient(location, token=secret), location
    return open_store(location, namespace=namespace, create=True), shown_location(location)


def _gateway(
    host: str,
    port: int,
    journal: Path,
    timeout: float,
    num_retries: int,
    secret: str | None,
    model_list: list[ModelConfig],
    store: LightningStore,
) -> LLMProxy:
    from agentlightning.llm_proxy import LLMProxy

    return LLMProxy(
        port,
        model_list,
        store,
        host,
        journal_dir=journal,
        timeout=timeout,
        num_retries=num_retries,
        token=secret,
    )


def _greeting(gateway: LLMProxy, backends: list[str], place: str, new_token: str | None) -> str:
    """Say where the gateway is, and how a program is pointed at it."""
    names = list(dict.fromkeys(entry["model_name"] for entry in gateway.model_list))
    any_attempt = gateway.as_resource(model=names[0])
    root = any_attempt.endpoint.removesuffix("/v1")
    lines = [
        f"Gateway at {any_attempt.endpoint}, before {', '.join(backends)}, serving {', '.join(names)}.",
        f"Calls are recorded in {place} when the base URL names their attempt:",
        f"  OPENAI_BASE_URL={root}/rollout/ROLLOUT_ID/attempt/ATTEMPT_ID/v1",
        "  (the same for ANTHROPIC_BASE_URL, and for every other program; see docs/gateway_clients.md)",
        f'As a resource: agl.ProxyLLM(endpoint="{any_attempt.endpoint}", model="{names[0]}")',
    ]
    if new_token is not None:
        lines.append(f"The token, made for this run: AGL_TOKEN={new_token}")
    return "\n".join([*lines, "Ctrl+C stops it."])
