"""Sampling with exact tokens: an engine with continuous batching and an OpenAI-shaped server on it."""

from __future__ import annotations

from agentlightning.inference.engine import Engine, EngineStats
from agentlightning.inference.sampler import Completion, FinishReason, Sampler, SamplingParams

__all__ = ["Completion", "Engine", "EngineStats", "FinishReason", "Sampler", "SamplingParams"]
