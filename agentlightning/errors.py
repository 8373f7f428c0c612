"""Every error of the package, in one tree, classified by the boundary that was crossed.

```
AgentLightningError
├── ConfigurationError         what the user asked for cannot work          (ValueError)
│   ├── MissingExtra           an optional dependency is not installed      (ImportError)
│   └── AddressTaken           a server cannot listen where it should       (RuntimeError)
├── StoreError                 the store refused or failed
│   ├── NotFound          404  no such rollout, attempt, resources, worker  (ValueError)
│   ├── IllegalTransition 409  the lifecycle has no such step               (ValueError)
│   ├── LeaseLost         409  the attempt is no longer its worker's to end
│   ├── InvalidValue      422  a value the store cannot keep     (TypeError, ValueError)
│   ├── Unauthorized      401  no token, or an unknown one
│   ├── Forbidden         403  the token does not allow this
│   ├── TooLarge          413  more than the store takes at once            (ValueError)
│   ├── TooBusy           429  more requests than the store works on at once
│   ├── StoreUnreachable  502  nobody answers at the store's address
│   └── StoreClosed       503  the store was closed
├── AgentError                 the agent's code, its signature or its answer
│   ├── InvalidAgent           a signature that cannot be called            (ValueError)
│   ├── InvalidResult          a return value that means nothing     (TypeError, ValueError)
│   ├── InvalidPrompt          a template that cannot be filled             (ValueError, KeyError)
│   ├── MissingResource        the agent asks for a resource nobody gave    (ValueError, KeyError)
│   ├── CommandFailed          an agent's program did not start, or did not end well
│   ├── NoActiveTracer         something is emitted where nothing is traced (RuntimeError)
│   └── RolloutCancelled       the agent was stopped before it ended
├── ModelError                 the model, its server or its tokens
│   ├── BackendUnreachable 502 nobody answers at the model's address
│   ├── BackendTimeout     504 the model's answer did not come in time
│   ├── InvalidAnswer      502 the model server answers in no form that is known
│   ├── CallHeld           503 the gateway held the call back for too long
│   ├── InvalidRequest     400 the model server cannot serve this request   (ValueError)
│   │   └── PromptTooLong  400 the prompt leaves no room in the context
│   ├── UnsupportedModel       an architecture the engine cannot run        (ValueError)
│   └── PolicyMismatch         engine and learner disagree on log-probs
└── ExecutionError             a run could not go on
```

Classes that v0.3 programs catch as a built-in error keep that built-in as a base. `status` is the HTTP
status with which a server reports the error.
"""

from __future__ import annotations


class AgentLightningError(Exception):
    """Base of every error this package raises on purpose."""

    status: int = 500


class ConfigurationError(AgentLightningError, ValueError):
    """What was asked for cannot work; the message says what to change."""

    status = 422


class WrongComponent(ConfigurationError, TypeError):
    """What was given for a component of the trainer is, or makes, something else."""


class MissingExtra(ConfigurationError, ImportError):
    """An optional dependency is needed but not installed."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(f"{purpose} needs `{package}`: pip install -e '.[{extra}]' in a checkout of agentlightning")


class AddressTaken(ConfigurationError, RuntimeError):
    """A server cannot listen at its address, which is another program's or not this machine's."""


class StoreError(AgentLightningError):
    """The store refused an operation or failed at it."""


class NotFound(StoreError, ValueError):
    """The store holds nothing under this id."""

    status = 404


class IllegalTransition(StoreError, ValueError):
    """The lifecycle has no such step from the present state."""

    status = 409


class LeaseLost(StoreError):
    """The attempt was ended or superseded; its worker may no longer change its status."""

    status = 409


class InvalidValue(StoreError, TypeError, ValueError):
    """A value that cannot be kept; the message holds the path to it."""

    status = 422


class Unauthorized(StoreError):
    """The request carries no token, or one that the server does not know."""

    status = 401


class Forbidden(StoreError):
    """The token is good, but its holder may not do this."""

    status = 403


class TooLarge(StoreError, ValueError):
    """The request holds more than the store takes at once; the message says how much that is."""

    status = 413


class TooBusy(StoreError):
    """The store works on as much as it can; the same request may succeed a little later."""

    status = 429


class StoreUnreachable(StoreError):
    """Nobody answers at the address of the store, or the answer did not come in time."""

    status = 502


class StoreClosed(StoreError):
    """The store was closed before or during the operation."""

    status = 503


class AgentError(AgentLightningError):
    """The agent's code, its signature or its answer is at fault."""


class InvalidAgent(AgentError, ValueError):
    """A function or class that cannot be called as an agent."""


class InvalidResult(AgentError, TypeError, ValueError):
    """A return value of an agent that means neither reward nor spans."""


class InvalidPrompt(AgentError, ValueError, KeyError):
    """A prompt template that is malformed, or a placeholder that nobody filled."""

    __str__ = Exception.__str__  # KeyError's would quote the message


class MissingResource(AgentError, ValueError, KeyError):
    """The agent asks for a resource that its rollout does not have."""

    __str__ = Exception.__str__  # KeyError's would quote the message


class NoActiveTracer(AgentError, RuntimeError):
    """Something was emitted where nothing is traced, and the environment demands that this be an error."""


class CommandFailed(AgentError):
    """The program of a command agent could not be started, took too long, or ended with an error."""


class RolloutCancelled(AgentError):
    """The agent was stopped before it ended: by its event, or because its attempt was over in the store."""


class ModelError(AgentLightningError):
    """The model, its server or its tokens are at fault."""

    status = 500


class BackendUnreachable(ModelError):
    """Nobody answers at the address of the model."""

    status = 502


class BackendTimeout(ModelError):
    """The model's answer did not come in time."""

    status = 504


class InvalidAnswer(ModelError):
    """The model server's answer has not the form of its API."""

    status = 502


class CallHeld(ModelError):
    """The gateway held the call while weights changed, and that took too long; the same call may succeed later."""

    status = 503


class InvalidRequest(ModelError, ValueError):
    """A request that the model server cannot serve."""

    status = 400


class PromptTooLong(InvalidRequest):
    """The prompt leaves no room for an answer in the model's context."""


class UnsupportedModel(ModelError, ValueError):
    """The engine cannot run this architecture."""


class PolicyMismatch(ModelError):
    """Engine and learner give different log-probabilities for the same weights."""


class ExecutionError(AgentLightningError):
    """A run could not go on."""
