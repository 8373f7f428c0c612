"""Turns training rows and rewards into better weights: advantages, a clipped loss, one update a step."""

from agentlightning.learner.advantage import Normalization, group_advantages, token_weights
from agentlightning.learner.checkpoint import load_training_state, save_checkpoint, write_checkpoint
from agentlightning.learner.model import load_model, load_tokenizer
from agentlightning.learner.step import Learner, StepMetrics

__all__ = [
    "Learner",
    "Normalization",
    "StepMetrics",
    "group_advantages",
    "load_model",
    "load_tokenizer",
    "load_training_state",
    "save_checkpoint",
    "token_weights",
    "write_checkpoint",
]
