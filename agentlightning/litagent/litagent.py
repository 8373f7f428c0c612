"""LitAgent: the agent as a class."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from agentlightning.errors import ConfigurationError, InvalidAgent
from agentlightning.litagent.calling import check_method
from agentlightning.tracer.active import active_trace
from agentlightning.types import NamedResources, Rollout, RolloutMode, RolloutRawResult

if TYPE_CHECKING:
    from agentlightning.runner import Runner
    from agentlightning.tracer import Tracer
    from agentlightning.trainer import Trainer

T = TypeVar("T")


class LitAgent(Generic[T]):
    """An agent that learns: override `rollout` or `rollout_async`, or their variants for training and validation.

    Each of them takes the task, the resources by name and the rollout with its attempt, and returns nothing (rewards
    were emitted), a reward, or spans. Instances are shared between concurrent rollouts: keep what belongs to one
    rollout in local variables.

    Attributes:
        strip_proxy: Whether a `ProxyLLM` among the resources becomes a plain `LLM` whose endpoint names the attempt.

    Args:
        trained_agents: Deprecated and unused; adapters choose by name which agents' calls to train on.
    """

    strip_proxy: bool = True

    _trainer_ref: weakref.ref[Trainer] | None = None
    _runner_ref: weakref.ref[Runner[T]] | None = None

    def __init__(self, *, trained_agents: str | None = None) -> None:
        if trained_agents is not None:
            warnings.warn("trained_agents is not used: give the adapter `agent_match`", DeprecationWarning, 2)
        self.trained_agents = trained_agents

    def __getstate__(self) -> dict[str, Any]:
        """Leave out who runs the agent: the process that unpickles it has its own runner."""
        return {key: value for key, value in vars(self).items() if key not in ("_trainer_ref", "_runner_ref")}

    def is_async(self) -> bool:
        """Whether any of the `…_async` methods is overridden."""
        names = ("rollout_async", "training_rollout_async", "validation_rollout_async")
        return any(self._overrides(name) for name in names)

    def method_for(self, mode: RolloutMode | None) -> Callable[..., Any]:
        """Return the method that does tasks of this mode: the most specific one that is overridden.

        A method for the mode wins over a general one, and of those an async one over a sync one; a class that
        overrides `is_async` says by it which of the two counts. Without a mode, tasks are validation.

        Raises:
            InvalidAgent: None is overridden, or it cannot be called with task, resources and rollout.
        """
        specific = "training_rollout" if mode == "train" else "validation_rollout"
        sides = ["_async", ""]
        if self._overrides("is_async"):
            sides = ["_async"] if self.is_async() else [""]
        for name in (kind + side for kind in (specific, "rollout") for side in sides):
            if self._overrides(name):
                method: Callable[..., Any] = getattr(self, name)
                check_method(method)
                return method
        raise InvalidAgent(
            f"{type(self).__name__} cannot do tasks of mode {mode!r}: override rollout, rollout_async or {specific}"
        )

    def _overrides(self, name: str) -> bool:
        return getattr(type(self), name) is not getattr(LitAgent, name)

    def set_trainer(self, trainer: Trainer) -> None:
        """Remember the trainer, without keeping it alive."""
        self._trainer_ref = weakref.ref(trainer)

    def get_trainer(self) -> Trainer:
        """Return the trainer.

        Raises:
            ConfigurationError: There is none (any more).
        """
        trainer = self._trainer_ref and self._trainer_ref()
        if trainer is None:
            raise ConfigurationError("this agent belongs to no trainer: run it with Trainer.fit or Trainer.dev")
        return trainer

    @property
    def trainer(self) -> Trainer:
        """The trainer; see `get_trainer`."""
        return self.get_trainer()

    def set_runner(self, runner: Runner[T]) -> None:
        """Remember the runner, without keeping it alive."""
        self._runner_ref = weakref.ref(runner)

    def get_runner(self) -> Runner[T]:
        """Return the runner.

        Several may share the agent: in a rollout it is the one that runs it, elsewhere the last that took the agent.

        Raises:
            ConfigurationError: There is none (any more).
        """
        trace = active_trace()
        runner = (trace and trace.runner) or (self._runner_ref and self._runner_ref())
        if runner is None:
            raise ConfigurationError("this agent belongs to no runner: use `with runner.run_context(agent=…)`")
        return runner

    @property
    def runner(self) -> Runner[T]:
        """The runner; see `get_runner`."""
        return self.get_runner()

    def get_tracer(self) -> Tracer:
        """Return the tracer of the runner.

        Raises:
            ConfigurationError: There is no runner, or it has no tracer.
        """
        tracer: Tracer | None = getattr(self.get_runner(), "tracer", None)
        if tracer is None:
            raise ConfigurationError(f"{type(self.get_runner()).__name__} has no tracer")
        return tracer

    @property
    def tracer(self) -> Tracer:
        """The tracer of the runner; see `get_tracer`."""
        return self.get_tracer()

    def rollout(self, task: T, resources: NamedResources, rollout: Rollout) -> RolloutRawResult:
        """Do the task; runs in a thread of its own, so it may block.

        Args:
            task: The input of the rollout.
            resources: The resources by name.
            rollout: The rollout with its attempt (an `AttemptedRollout`).

        Returns:
            None when rewards were emitted, a reward, or spans.
        """
        raise NotImplementedError(f"{type(self).__name__} does not implement rollout")

    async def rollout_async(self, task: T, resources: NamedResources, rollout: Rollout) -> RolloutRawResult:
        """Do the task on the event loop; see `rollout`."""
        raise NotImplementedError(f"{type(self).__name__} does not implement rollout_async")

    def training_rollout(self, task: T, resources: NamedResources, rollout: Rollout) -> RolloutRawResult:
        """Do a task of mode `train`; by default like any other."""
        return self.rollout(task, resources, rollout)

    def validation_rollout(self, task: T, resources: NamedResources, rollout: Rollout) -> RolloutRawResult:
        """Do a task of mode `val`, `test` or none; by default like any other."""
        return self.rollout(task, resources, rollout)

    async def training_rollout_async(self, task: T, resources: NamedResources, rollout: Rollout) -> RolloutRawResult:
        """Do a task of mode `train` on the event loop; by default like any other."""
        return await self.rollout_async(task, resources, rollout)

    async def validation_rollout_async(self, task: T, resources: NamedResources, rollout: Rollout) -> RolloutRawResult:
        """Do a task of mode `val`, `test` or none on the event loop; by default like any other."""
        return await self.rollout_async(task, resources, rollout)
