from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from agentlightning.errors import ConfigurationError
from agentlightning.learner import Learner, load_model, load_tokenizer, load_training_state, save_checkpoint
from agentlightning.types import TrainingRow

MakeModel = Callable[[], PreTrainedModel]


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerBase:
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]")))


def test_a_resumed_run_goes_on_bit_for_bit(
    make_model: MakeModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: list[TrainingRow],
    advantages: dict[str, float],
    tmp_path: Path,
) -> None:
    learner = Learner(make_model())
    learner.step(rows, advantages)
    save_checkpoint(tmp_path / "run", learner, tokenizer)
    drawn = torch.rand(3)
    learner.step(rows, advantages)

    resumed = Learner(load_model(tmp_path / "run", "cpu"))
    load_training_state(tmp_path / "run", resumed)
    assert resumed.version == 1
    assert torch.equal(torch.rand(3), drawn)
    resumed.step(rows, advantages)
    for name, expected in learner.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], expected), name
    assert load_tokenizer(tmp_path / "run").encode("a") == [0]


def test_a_folder_is_replaced_whole_or_not_at_all(
    make_model: MakeModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: list[TrainingRow],
    advantages: dict[str, float],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    learner = Learner(make_model())
    save_checkpoint(tmp_path / "run", learner, tokenizer)
    learner.step(rows, advantages)
    with monkeypatch.context() as broken:

        def no_space(*_args: object) -> None:
            raise OSError("no space left")

        broken.setattr(tokenizer, "save_pretrained", no_space)
        with pytest.raises(OSError, match="no space"):
            save_checkpoint(tmp_path / "run", learner, tokenizer)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    kept = Learner(load_model(tmp_path / "run", "cpu"))
    load_training_state(tmp_path / "run", kept)
    assert kept.version == 0

    save_checkpoint(tmp_path / "run", learner, tokenizer)
    load_training_state(tmp_path / "run", kept)
    assert kept.version == 1
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_only_a_checkpoint_can_be_resumed(make_model: MakeModel, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="save_checkpoint"):
        load_training_state(tmp_path, Learner(make_model()))
