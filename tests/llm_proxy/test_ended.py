"""v0.3's arguments of the gateway are taken where they ask for what it does anyway, and else say what to do."""

from __future__ import annotations

from typing import Any

import pytest

import agentlightning as agl
from agentlightning.errors import ConfigurationError

MODELS: Any = [{"model_name": "m", "litellm_params": {"model": "openai/m", "api_base": "http://127.0.0.1:9/v1"}}]


def test_what_the_gateway_does_anyway_may_be_asked_for() -> None:
    proxy = agl.LLMProxy(
        port=0,
        model_list=MODELS,
        num_retries=1,
        num_workers=1,
        launch_mode="mp",
        middlewares=["rollout_attempt", "stream_conversion"],
        callbacks=["return_token_ids", "logprobs", "opentelemetry"],
    )
    assert proxy.model_list == MODELS


@pytest.mark.parametrize(
    ("name", "value", "instead"),
    [
        ("litellm_config", {"litellm_settings": {}}, "model_list"),
        ("launcher_args", object(), "launch_mode"),
        ("num_workers", 4, "agl proxy"),
        ("middlewares", [object], "before the gateway"),
        ("callbacks", ["return_token_ids", object()], "from the store"),
    ],
)
def test_what_cannot_be_done_says_what_to_do(name: str, value: Any, instead: str) -> None:
    given: dict[str, Any] = {name: value}
    with pytest.raises(ConfigurationError, match=rf"LLMProxy\({name}=…\) of v0\.3 does not exist here; .*{instead}"):
        agl.LLMProxy(model_list=MODELS, **given)
