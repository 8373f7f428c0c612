"""Credit: how much better than its group a rollout was, and how its credit is shared among its tokens.

Both belong to the rollout, never to a row: a rollout split into more rows keeps the credit it had.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Literal

from agentlightning.errors import ConfigurationError
from agentlightning.types.llm_call import TrainingRow

Normalization = Literal["token", "rollout"]
"""What the loss is a mean of: all sampled tokens of the step, or the rollouts, each the mean of its tokens."""


def group_advantages(
    rewards: Sequence[Sequence[float]], normalize_std: bool = True, eps: float = 1e-6
) -> list[list[float]]:
    """Compare each rollout with the others of its task: A = (r - mean(group)) / (std(group) + eps).

    This is GRPO's advantage under outcome supervision (DeepSeekMath, arXiv:2402.03300, section 4.1.2), with the
    population's standard deviation.

    Args:
        rewards: One group a task, one reward a rollout; groups must be complete, failed rollouts included.
        normalize_std: False leaves out the division, as Dr. GRPO does (arXiv:2503.20783).
        eps: Keeps the division finite.

    Returns:
        Advantages in the shape of `rewards`; 0.0 throughout a group whose rewards are all equal.

    Raises:
        ConfigurationError: A reward is NaN or infinite.
    """
    return [_advantages(group, normalize_std, eps) for group in rewards]


def _advantages(group: Sequence[float], normalize_std: bool, eps: float) -> list[float]:
    if not all(math.isfinite(reward) for reward in group):
        raise ConfigurationError(f"rewards must be finite numbers, not {list(group)}; clean them where they are made")
    if len(set(group)) < 2:
        return [0.0] * len(group)
    mean = statistics.fmean(group)
    scale = statistics.pstdev(group, mean) + eps if normalize_std else 1.0
    return [(reward - mean) / scale for reward in group]


def token_weights(rows: Iterable[TrainingRow], normalization: Normalization) -> dict[str, float]:
    """Weigh the sampled tokens of each rollout, so that the weights of a step's sampled tokens sum to 1.

    Args:
        rows: All rows of a step, those without advantage too.
        normalization: `token`: every token weighs the same. `rollout`: every rollout weighs the same, whatever its
            length.

    Returns:
        The weight of one token, for each rollout that sampled any.
    """
    sampled = Counter[str]()
    for row in rows:
        sampled[row.rollout_id] += sum(row.mask)
    counts = {rollout_id: count for rollout_id, count in sampled.items() if count}
    if normalization == "token":
        return dict.fromkeys(counts, 1.0 / max(1, sum(counts.values())))
    return {rollout_id: 1.0 / (len(counts) * count) for rollout_id, count in counts.items()}
