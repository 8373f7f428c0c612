"""What an APO run is told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from agentlightning.algorithm.prompt_search import check_number, check_whole
from agentlightning.errors import ConfigurationError

Promotion: TypeAlias = Literal["evidence", "mean"]
"""What makes a prompt the best: a paired comparison that says `better`, or a higher mean."""

_COUNTS = ("gradient_batch_size", "val_batch_size", "beam_width", "branch_factor", "beam_rounds", "max_concurrency")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings of `APO`, which describes them."""

    gradient_model: str
    apply_edit_model: str
    diversity_temperature: float
    gradient_batch_size: int
    val_batch_size: int
    beam_width: int
    branch_factor: int
    beam_rounds: int
    rollout_batch_timeout: float
    run_initial_validation: bool
    max_concurrency: int
    promotion: Promotion
    seed: int

    def __post_init__(self) -> None:
        for name in _COUNTS:
            check_whole(name, getattr(self, name), 1)
        check_whole("seed", self.seed)
        check_number("diversity_temperature", self.diversity_temperature, least=0)
        check_number("rollout_batch_timeout", self.rollout_batch_timeout, above=0)
        if self.promotion not in ("evidence", "mean"):
            raise ConfigurationError(f"promotion must be 'evidence' or 'mean', not {self.promotion!r}")
