from __future__ import annotations

import pytest

import agentlightning as agl
from agentlightning.llm_proxy.place import Place, place_of
from agentlightning.store.tokens import is_runner_token
from agentlightning.types import ProxyLLM

LOCAL = agl.InMemoryLightningStore()


def server(host: str, token: str | None = None) -> agl.LightningStoreServer:
    return agl.LightningStoreServer(LOCAL, host, 4747, token=token)


@pytest.mark.parametrize(
    ("host", "token", "store", "place"),
    [
        pytest.param(None, None, LOCAL, Place("127.0.0.1", None), id="alone"),
        pytest.param(None, None, server("127.0.0.1", "s"), Place("127.0.0.1", None), id="server of this machine"),
        pytest.param(None, None, server("10.0.0.1", "s"), Place("10.0.0.1", "s", "10.0.0.1"), id="server for others"),
        pytest.param(
            None,
            "own",
            agl.LightningStoreThreaded(agl.LightningStoreThreaded(server("10.0.0.1", "s"))),
            Place("10.0.0.1", "own", "10.0.0.1"),
            id="behind wrappers, with a token",
        ),
        pytest.param("127.0.0.1", None, server("10.0.0.1", "s"), Place("127.0.0.1", None), id="chosen"),
    ],
)
def test_gateway_follows_a_server_that_others_reach_unless_told_otherwise(
    host: str | None, token: str | None, store: agl.LightningStore, place: Place
) -> None:
    assert place_of(host, token, store) == place


async def test_runners_elsewhere_get_the_name_and_a_token_of_theirs() -> None:
    store = agl.LightningStoreServer(LOCAL, "0.0.0.0", 0, token="secret")
    await store.start()
    try:
        proxy = agl.LLMProxy(model_list=[{"model_name": "m", "litellm_params": {"model": "m"}}], store=store)
        await proxy.start()
        try:
            llm = proxy.as_resource()
        finally:
            await proxy.stop()
    finally:
        await store.stop()
    assert isinstance(llm, ProxyLLM)
    assert llm.endpoint.rpartition(":")[0] == store.endpoint.rpartition(":")[0]
    assert llm.api_key is not None
    assert is_runner_token(llm.api_key)
