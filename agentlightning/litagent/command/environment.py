"""What a program finds in its environment: who it is, where its model is, and which files are its own."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Final

from agentlightning.litagent.inject import Wanted, fill
from agentlightning.store.tokens import TOKEN_VARIABLE
from agentlightning.types import LLM, AttemptedRollout, NamedResources, PromptTemplate, Rollout

TASK_FILE: Final = "task.json"
RESULT_FILE: Final = "result.json"
NO_KEY: Final = "unused"
"""Clients want a key also where the server does not."""
_WANTED: Final = [Wanted("llm", (LLM,), required=False), Wanted("prompt_template", (PromptTemplate,), required=False)]


def environment(files: Path, task: object, resources: NamedResources, rollout: Rollout) -> dict[str, str]:
    """Write a program's files and return its environment: this process's, and what only this attempt has.

    The token of the store's administrator or runner stays here.

    Args:
        files: A directory of the attempt's own, for the task, the prompt and the result.
        task: The input of the rollout.
        resources: One `LLM` and one `PromptTemplate` of them are passed on, if there are any.
        rollout: Whose attempt it is.

    Raises:
        MissingResource: Several resources could be meant.
    """
    given = fill(_WANTED, resources, rollout)
    variables = {
        "AGL_ROLLOUT_ID": rollout.rollout_id,
        "AGL_MODE": rollout.mode or "val",
        "AGL_TASK_FILE": _written(files / TASK_FILE, json.dumps(task)),
        "AGL_RESULT_FILE": str(files / RESULT_FILE),
    }
    if isinstance(rollout, AttemptedRollout):
        variables["AGL_ATTEMPT_ID"] = rollout.attempt.attempt_id
    if "llm" in given:
        variables |= model_variables(given["llm"], rollout)
    if "prompt_template" in given:
        variables["AGL_PROMPT_FILE"] = _written(files / "prompt.txt", given["prompt_template"].template)
    inherited = {name: value for name, value in os.environ.items() if name != TOKEN_VARIABLE}
    return inherited | variables


def model_variables(llm: LLM, rollout: Rollout) -> dict[str, str]:
    """Return what leads OpenAI's and Anthropic's clients, and programs written for v1.0, to a model."""
    base, key = llm.endpoint.rstrip("/"), llm.api_key or NO_KEY
    variables = {
        "OPENAI_BASE_URL": base,
        "OPENAI_API_KEY": key,
        "OPENAI_MODEL": llm.model,
        "ANTHROPIC_BASE_URL": base.removesuffix("/v1"),  # its clients append /v1/messages
        "ANTHROPIC_API_KEY": key,
        "ANTHROPIC_MODEL": llm.model,
        "AGL_OPENAI_BASE_URL": base,
        "AGL_KEY": key,
        "AGL_MODEL": llm.model,
        "AGL_SAMPLING_PARAMETERS": json.dumps(llm.sampling_parameters),
    }
    return variables | _gateway_variables(base, rollout)


def _gateway_variables(base: str, rollout: Rollout) -> dict[str, str]:
    if not isinstance(rollout, AttemptedRollout):
        return {}
    attempt = f"/rollout/{rollout.rollout_id}/attempt/{rollout.attempt.attempt_id}"
    gateway, found, _ = base.partition(attempt)
    if not found:  # the model is reached without the gateway, so nobody takes events
        return {}
    mode = "train" if rollout.mode == "train" else "val"
    return {
        "AGL_EVENT_URL": f"{gateway}/api/rollouts{attempt.removeprefix('/rollout')}/events",
        "AGL_OPENAI_BASE_URL": f"{gateway}/proxy{attempt}/mode/{mode}/openai/v1",
    }


def _written(path: Path, text: str) -> str:
    path.write_text(text, "utf-8")
    return str(path)
