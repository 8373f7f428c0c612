"""Sampling with exact tokens: an engine with continuous batching and an OpenAI-shaped server on it."""

from __future__ import annotations

from agentlightning.inference.engine import Engine, EngineStats
from agentlightning.inference.sampler import Completion, CompletionPart, FinishReason, Sampler, SamplingParams
from agentlightning.inference.server import InferenceServer, create_app
from agentlightning.inference.tokenizer import Tokenizer
from agentlightning.inference.tool_calls import ArgumentsPart, CallBegun, ToolCall, ToolParser, register_tool_parser

__all__ = [
    "ArgumentsPart",
    "CallBegun",
    "Completion",
    "CompletionPart",
    "Engine",
    "EngineStats",
    "FinishReason",
    "InferenceServer",
    "Sampler",
    "SamplingParams",
    "Tokenizer",
    "ToolCall",
    "ToolParser",
    "create_app",
    "register_tool_parser",
]
