"""The trainer: one call that runs an algorithm and its runners on a store, wherever they live."""

from agentlightning.trainer.components import ComponentSpec, build_component
from agentlightning.trainer.registry import Registry
from agentlightning.trainer.result import TrainingResult
from agentlightning.trainer.trainer import Trainer

__all__ = ["ComponentSpec", "Registry", "Trainer", "TrainingResult", "build_component"]
