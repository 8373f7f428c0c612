"""The policy under training, served: engine, inference server and gateway as one thing."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any, Self

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from agentlightning.errors import PolicyMismatch
from agentlightning.inference import Engine
from agentlightning.inference.server import InferenceServer
from agentlightning.llm_proxy import LLMProxy
from agentlightning.store import LightningStore

MODEL_NAME = "policy"
RESOURCE_NAME = "llm"


class PolicyServer:
    """Serves a copy of the policy to agents through the gateway while it is open.

    Args:
        model: The copy to serve; the engine owns it from now on.
        tokenizer: Its tokenizer, with a chat template.
        store: Where the gateway's captures and the published resources go.
        llm_proxy: The gateway; None makes one.
        max_batch_size: The most answers the engine samples at a time.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        store: LightningStore,
        llm_proxy: LLMProxy | None = None,
        max_batch_size: int = 64,
    ) -> None:
        self._dtype = model.dtype
        self.engine = Engine(model, tokenizer, max_batch_size=max_batch_size)
        self._server = InferenceServer(self.engine, tokenizer, MODEL_NAME)
        self._store = store
        self._proxy = llm_proxy or LLMProxy(store=store)
        self._exit = AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            self.engine.start()
            stack.push_async_callback(asyncio.to_thread, self.engine.stop)
            await self._server.start()
            stack.push_async_callback(self._server.stop)
            await self._open_gateway(stack)
            self._exit = stack.pop_all()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._exit.aclose()

    async def _open_gateway(self, stack: AsyncExitStack) -> None:
        backend = {"model": MODEL_NAME, "api_base": f"{self._server.url}/v1"}
        others = self._proxy.model_list
        self._proxy.update_model_list([*others, {"model_name": MODEL_NAME, "litellm_params": backend}])
        stack.callback(self._proxy.update_model_list, others)
        if not self._proxy.is_running():
            await self._proxy.start()
            stack.push_async_callback(self._proxy.stop)

    async def publish(self, sampling_parameters: Mapping[str, Any]) -> str:
        """Store the policy as the resource `llm`, to be sampled as given; returns the resources id."""
        llm = self._proxy.as_resource(model=MODEL_NAME, sampling_parameters=dict(sampling_parameters))
        return (await self._store.add_resources({RESOURCE_NAME: llm})).resources_id

    async def update(self, weights: Mapping[str, torch.Tensor], version: int) -> None:
        """Serve new weights from the next decode step on."""
        await self.engine.update_weights(weights, version)

    async def check(self, token_ids: Sequence[Sequence[int]], expected: Sequence[Sequence[float]]) -> float:
        """Compare the engine's log-probabilities with the learner's, at temperature 1.

        A weight update that arrives wrong (a stale tied head, a lost tensor) trains on lies without any error; this
        is the canary that notices.

        Args:
            token_ids: Whole sequences. Shape (N, L_n).
            expected: The learner's log-probability of each token given those before it. Shape (N, L_n).

        Returns:
            The largest absolute difference.

        Raises:
            PolicyMismatch: fp32 differs by more than 1e-4 anywhere, or bf16 by more than 0.05 on average.
        """
        scored = await self.engine.score(token_ids)
        difference = torch.tensor(
            [
                abs(ours - theirs)
                for row_ours, row_theirs in zip(scored, expected, strict=True)
                for ours, theirs in zip(row_ours[1:], row_theirs[1:], strict=True)
            ]
        )
        largest, mean = difference.max().item(), difference.mean().item()
        exact = self._dtype == torch.float32
        if not (largest <= 1e-4 if exact else mean <= 0.05):
            raise PolicyMismatch(
                f"after the update to version {self.engine.weights_version} engine and learner differ by up to "
                f"{largest:.2g} (mean {mean:.2g}) in log-probability; the engine does not serve the learner's weights"
            )
        return largest
