"""A run on disk: a Hugging Face folder, and beside the weights what a resumed run needs to go on bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, cast

import torch
from transformers import PreTrainedTokenizerBase

from agentlightning._internal.folders import whole_folder
from agentlightning.errors import ConfigurationError
from agentlightning.learner.step import Learner

_TRAINING_STATE: Final = "training_state.pt"


def save_checkpoint(folder: str | Path, learner: Learner, tokenizer: PreTrainedTokenizerBase) -> None:
    """Write model, tokenizer and training state; the folder appears whole or not at all, see `whole_folder`."""
    with whole_folder(Path(folder)) as written:
        write_checkpoint(written, learner, tokenizer)


def write_checkpoint(folder: Path, learner: Learner, tokenizer: PreTrainedTokenizerBase) -> None:
    """Write model, tokenizer and training state into a folder."""
    for part in (learner.model, tokenizer):
        cast("Any", part).save_pretrained(folder)
    torch.save({"learner": learner.training_state(), "rng": _rng_states()}, folder / _TRAINING_STATE)


def load_training_state(folder: str | Path, learner: Learner) -> None:
    """Let a learner, whose model was loaded from this folder, go on where `save_checkpoint` left off.

    Torch's random generators go back to where they were too.

    Raises:
        ConfigurationError: The folder holds no training state.
    """
    path = Path(folder) / _TRAINING_STATE
    if not path.exists():
        raise ConfigurationError(f"{path} is missing; only a folder of save_checkpoint can be resumed")
    state = torch.load(path, map_location="cpu", weights_only=True)
    learner.load_training_state(state["learner"])
    torch.set_rng_state(state["rng"]["cpu"])
    torch.cuda.set_rng_state_all(state["rng"]["cuda"])


def _rng_states() -> dict[str, Any]:
    return {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all()}
