"""The transition tables over their full product."""

from itertools import product

import pytest

from agentlightning.errors import IllegalTransition, LeaseLost
from agentlightning.types import RolloutConfig
from agentlightning.types.lifecycle import (
    ATTEMPT_EVENTS,
    ATTEMPT_STATUSES,
    ATTEMPT_TABLE,
    ENDED,
    FINISHED,
    LIVE,
    QUEUED,
    ROLLOUT_EVENTS,
    ROLLOUT_STATUSES,
    ROLLOUT_TABLE,
    RUNNING,
    Effect,
    attempt_event_setting,
    event_of_latest_attempt,
    next_attempt,
    next_rollout,
    rollout_event_setting,
)

ILLEGAL_FOR_ROLLOUTS = {(status, "claim") for status in RUNNING + FINISHED}
ILLEGAL_FOR_ATTEMPTS = {
    *((status, f"set_{other}") for status in ENDED for other in ATTEMPT_STATUSES if other != status),
    ("unresponsive", "set_preparing"),
}


def test_status_groups_partition_the_statuses() -> None:
    assert sorted(QUEUED + RUNNING + FINISHED) == sorted(ROLLOUT_STATUSES)
    assert sorted((*LIVE, *ENDED, "unresponsive")) == sorted(ATTEMPT_STATUSES)


def test_every_pair_of_a_rollout_has_a_row_or_is_known_to_be_illegal() -> None:
    for pair in product(ROLLOUT_STATUSES, ROLLOUT_EVENTS):
        assert (pair in ROLLOUT_TABLE) != (pair in ILLEGAL_FOR_ROLLOUTS), pair
        if pair in ILLEGAL_FOR_ROLLOUTS:
            with pytest.raises(IllegalTransition):
                next_rollout(*pair)


def test_every_pair_of_an_attempt_has_a_row_or_is_known_to_be_illegal() -> None:
    for pair in product(ATTEMPT_STATUSES, ATTEMPT_EVENTS):
        assert (pair in ATTEMPT_TABLE) != (pair in ILLEGAL_FOR_ATTEMPTS), pair
        if pair in ILLEGAL_FOR_ATTEMPTS:
            with pytest.raises(LeaseLost):
                next_attempt(*pair)


def test_rollout_effects_are_those_of_crossing_a_border() -> None:
    for (before, event), (after, effects) in ROLLOUT_TABLE.items():
        left, entered = before in FINISHED, after in FINISHED
        # One finished status may replace another: that ends the rollout anew.
        assert (Effect.END in effects) == (entered and before != after), (before, event)
        assert (Effect.REOPEN in effects) == (left and not entered), (before, event)
        assert (Effect.ENQUEUE in effects) == (after in QUEUED and before not in QUEUED), (before, event)


def test_attempt_effects_are_those_of_crossing_a_border() -> None:
    for (before, event), (after, effects) in ATTEMPT_TABLE.items():
        assert (Effect.END in effects) == (after not in LIVE and before != after), (before, event)
        assert (Effect.REOPEN in effects) == (before not in LIVE and after in LIVE), (before, event)
        assert effects <= {Effect.END, Effect.REOPEN}, (before, event)


def test_nothing_that_an_attempt_does_moves_a_finished_rollout() -> None:
    for status, event in product(FINISHED, ROLLOUT_EVENTS):
        if event.startswith("attempt_"):
            assert next_rollout(status, event) == (status, frozenset())


def test_nothing_moves_an_ended_attempt() -> None:
    for (before, _), (after, effects) in ATTEMPT_TABLE.items():
        if before in ENDED:
            assert (after, effects) == (before, frozenset())


def test_a_rollout_that_is_taken_from_its_worker_ends_the_attempt() -> None:
    for before, event in product(RUNNING, ROLLOUT_EVENTS):
        if event.startswith("set_") and (before, event) in ROLLOUT_TABLE:
            after, effects = next_rollout(before, event)
            assert (Effect.END_ATTEMPTS in effects) == (after not in RUNNING), (before, event)


def test_an_explicit_status_always_wins() -> None:
    for before, status in product(ROLLOUT_STATUSES, ROLLOUT_STATUSES):
        assert next_rollout(before, rollout_event_setting(status)).status == status


def test_a_live_attempt_takes_every_status() -> None:
    for before, status in product(LIVE, ATTEMPT_STATUSES):
        assert next_attempt(before, attempt_event_setting(status)).status == status


@pytest.mark.parametrize("status", ["failed", "timeout", "unresponsive"])
def test_a_loss_is_tried_again_only_when_configured_and_within_the_budget(status: str) -> None:
    for retried, sequence_id, max_attempts in product((True, False), (1, 2, 3), (1, 2, 3)):
        config = RolloutConfig(max_attempts=max_attempts, retry_condition=[status] if retried else [])
        event = event_of_latest_attempt(status, sequence_id, config)
        again = retried and sequence_id < max_attempts
        assert event == ("attempt_lost" if again else "attempt_lost_for_good")


def test_a_rollout_follows_an_attempt_that_is_not_lost() -> None:
    for status in ("preparing", "running", "succeeded"):
        event = event_of_latest_attempt(status, 1, RolloutConfig())
        assert next_rollout("running", event).status == status
