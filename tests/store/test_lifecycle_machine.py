"""The store and the lifecycle tables tell the same story, whatever happens in whatever order."""

import asyncio
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from hypothesis import HealthCheck, settings, strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from agentlightning.errors import LeaseLost
from agentlightning.store import InMemoryLightningStore
from agentlightning.store.sql.deadlines import expire_due
from agentlightning.store.sql.leases import set_deadlines
from agentlightning.store.sql.transaction import Transaction
from agentlightning.types import AttemptedRollout, AttemptStatus, RolloutConfig, RolloutStatus, Span
from agentlightning.types.lifecycle import (
    ATTEMPT_STATUSES,
    ATTEMPT_TABLE,
    ENDED,
    FINISHED,
    LIVE,
    QUEUED,
    ROLLOUT_STATUSES,
    AttemptEvent,
    Effect,
    RolloutEvent,
    attempt_event_setting,
    event_of_latest_attempt,
    next_attempt,
    next_rollout,
    rollout_event_setting,
)


@dataclass
class ModelRollout:
    """What the tables say of one rollout; `attempts` holds their statuses in order.

    `queued_as` says of each attempt which status its rollout had in the queue, if the worker took it from there.
    """

    config: RolloutConfig
    position: int
    status: RolloutStatus = "queuing"
    attempts: list[AttemptStatus] = field(default_factory=list)
    queued_as: list[RolloutStatus | None] = field(default_factory=list)


class LifecycleMachine(RuleBasedStateMachine):
    rollouts = Bundle("rollouts")

    @initialize()
    def open(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.store = InMemoryLightningStore()
        self.model: dict[str, ModelRollout] = {}
        self.positions = count()
        self.with_spans: set[str] = set()
        self.attempt_ids: dict[str, list[str]] = {}

    def run(self, operation: Any) -> Any:
        return self.loop.run_until_complete(asyncio.wait_for(operation, 10))

    def teardown(self) -> None:
        self.run(self.store.close())
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()

    def move(self, rollout_id: str, event: RolloutEvent) -> None:
        rollout = self.model[rollout_id]
        rollout.status, effects = next_rollout(rollout.status, event)
        if Effect.ENQUEUE in effects:
            rollout.position = next(self.positions)
        if Effect.END_ATTEMPTS in effects:
            for index, status in enumerate(rollout.attempts):
                if status in LIVE:
                    succeeds = rollout.status == "succeeded" and index == len(rollout.attempts) - 1
                    rollout.attempts[index] = "succeeded" if succeeds else "failed"

    @property
    def queue(self) -> list[str]:
        waiting = [rollout_id for rollout_id, rollout in self.model.items() if rollout.status in QUEUED]
        return sorted(waiting, key=lambda rollout_id: self.model[rollout_id].position)

    def claimed(self, claim: AttemptedRollout, queued_as: RolloutStatus | None) -> None:
        self.model[claim.rollout_id].attempts.append("preparing")
        self.model[claim.rollout_id].queued_as.append(queued_as)
        self.attempt_ids[claim.rollout_id].append(claim.attempt.attempt_id)
        assert claim.attempt.sequence_id == len(self.attempt_ids[claim.rollout_id])

    @rule(
        target=rollouts,
        max_attempts=st.integers(1, 3),
        retried=st.lists(st.sampled_from(["failed", "timeout", "unresponsive"]), unique=True),
    )
    def enqueue(self, max_attempts: int, retried: list[AttemptStatus]) -> str:
        config = RolloutConfig(max_attempts=max_attempts, retry_condition=retried)
        rollout_id = self.run(self.store.enqueue_rollout(1, config=config)).rollout_id
        self.model[rollout_id] = ModelRollout(config, next(self.positions))
        self.attempt_ids[rollout_id] = []
        return rollout_id

    @rule(limit=st.integers(1, 2))
    def dequeue(self, limit: int) -> None:
        expected = self.queue[:limit]
        claims = self.run(self.store.dequeue_many_rollouts(limit=limit, worker_id="w"))
        assert [claim.rollout_id for claim in claims] == expected
        for claim in claims:
            queued_as = self.model[claim.rollout_id].status
            self.move(claim.rollout_id, "claim")
            self.claimed(claim, queued_as)

    @rule(rollout_id=rollouts)
    def restart(self, rollout_id: str) -> None:
        claim = self.run(self.store.start_attempt(rollout_id))
        self.move(rollout_id, "restart")
        self.claimed(claim, None)

    @rule(rollout_id=rollouts, status=st.sampled_from(ROLLOUT_STATUSES))
    def set_rollout(self, rollout_id: str, status: RolloutStatus) -> None:
        self.run(self.store.update_rollout(rollout_id, status=status))
        self.move(rollout_id, rollout_event_setting(status))

    @rule(rollout_id=rollouts, back=st.integers(0, 2), status=st.sampled_from(ATTEMPT_STATUSES))
    def set_attempt(self, rollout_id: str, back: int, status: AttemptStatus) -> None:
        attempts = self.model[rollout_id].attempts
        if back >= len(attempts):
            return
        index = len(attempts) - 1 - back
        before = attempts[index]
        superseded = before == "unresponsive" and back > 0 and status != before
        update = self.store.update_attempt(rollout_id, self.attempt_ids[rollout_id][index], status=status)
        if superseded or (before, attempt_event_setting(status)) not in ATTEMPT_TABLE:
            try:
                self.run(update)
            except LeaseLost:
                return
            raise AssertionError("the attempt had lost its lease")
        self.run(update)
        attempts[index] = next_attempt(before, attempt_event_setting(status)).status
        if back == 0 and (before != status or status in LIVE):
            self.follow(rollout_id)

    @rule(rollout_id=rollouts, back=st.integers(0, 1))
    def add_span(self, rollout_id: str, back: int) -> None:
        attempts = self.model[rollout_id].attempts
        if back >= len(attempts):
            return
        index = len(attempts) - 1 - back
        before, attempt_id = attempts[index], self.attempt_ids[rollout_id][index]
        span = Span.from_attributes(attributes={}, rollout_id=rollout_id, attempt_id=attempt_id)
        stored = self.run(self.store.add_span(span))
        self.with_spans.add(attempt_id)
        is_over = before == "unresponsive" and (back > 0 or self.model[rollout_id].status in FINISHED)
        if not is_over:
            attempts[index] = next_attempt(before, "span").status
        assert bool(stored.model_extra.get("late")) == (is_over or attempts[index] not in LIVE)
        if back == 0 and attempts[index] != before:
            self.follow(rollout_id)

    @rule(rollout_id=rollouts, event=st.sampled_from(["set_timeout", "set_unresponsive"]))
    def let_deadline_pass(self, rollout_id: str, event: AttemptEvent) -> None:
        column = "timeout_seconds" if event == "set_timeout" else "unresponsive_seconds"

        async def expire(tx: Transaction) -> None:
            await set_deadlines(tx, rollout_id, RolloutConfig(**{column: 0.0}))  # type: ignore[arg-type]
            await expire_due(tx, 100)
            await set_deadlines(tx, rollout_id, RolloutConfig())

        self.run(self.store.write(expire))
        stored = [attempt.status for attempt in self.run(self.store.query_attempts(rollout_id))]
        for index, status in enumerate(stored):
            is_latest = index == len(stored) - 1
            # Which of those that are due at one moment ends first is open; the latest may take the others with it.
            self.end(rollout_id, index, "set_failed" if status == "failed" and not is_latest else event)

    @rule(held=st.sets(st.integers(0, 3)))
    def renew_leases(self, held: set[int]) -> None:
        """The worker holds of its claims those with these numbers; it has heard of all that were made until now."""
        claims = [
            (rollout_id, index)
            for rollout_id, rollout in self.model.items()
            for index, queued_as in enumerate(rollout.queued_as)
            if queued_as
        ]
        listed = {key for number, key in enumerate(claims) if number in held}
        as_of = self.run(self.store.renew_leases("w", [])).time
        pairs = {(rollout_id, self.attempt_ids[rollout_id][index]): (rollout_id, index) for rollout_id, index in listed}
        lost = self.run(self.store.renew_leases("w", list(pairs), as_of=as_of)).lost
        for rollout_id, index in claims:
            rollout = self.model[rollout_id]
            is_latest, attempt_id = index == len(rollout.attempts) - 1, self.attempt_ids[rollout_id][index]
            is_untouched = (
                rollout.attempts[index] == rollout.status == "preparing" and attempt_id not in self.with_spans
            )
            if (rollout_id, index) in listed:
                is_held = is_latest and rollout.attempts[index] not in ENDED and rollout.status not in FINISHED
                if is_held and rollout.attempts[index] == "unresponsive":
                    rollout.attempts[index] = next_attempt("unresponsive", "span").status
                    self.follow(rollout_id)
                assert ((rollout_id, attempt_id) in lost) == (not is_held)
            elif is_latest and is_untouched:
                self.withdraw(rollout_id)
            else:
                self.end(rollout_id, index, "set_unresponsive")

    @rule()
    def release_worker(self) -> None:
        released = {attempt.attempt_id for attempt in self.run(self.store.release_worker("w"))}
        for rollout_id, rollout in self.model.items():
            for index, queued_as in enumerate(rollout.queued_as):
                is_live = queued_as is not None and rollout.attempts[index] in LIVE
                assert (self.attempt_ids[rollout_id][index] in released) == is_live
                if is_live:
                    self.end(rollout_id, index, "set_unresponsive")

    def end(self, rollout_id: str, index: int, event: AttemptEvent) -> None:
        """The store takes an attempt away, if it is live."""
        attempts = self.model[rollout_id].attempts
        if attempts[index] in LIVE:
            attempts[index] = next_attempt(attempts[index], event).status
            if index == len(attempts) - 1:
                self.follow(rollout_id)

    def withdraw(self, rollout_id: str) -> None:
        rollout = self.model[rollout_id]
        queued_as = rollout.queued_as.pop()
        assert queued_as
        rollout.status = queued_as
        rollout.attempts.pop()
        self.attempt_ids[rollout_id].pop()

    def follow(self, rollout_id: str) -> None:
        rollout = self.model[rollout_id]
        self.move(rollout_id, event_of_latest_attempt(rollout.attempts[-1], len(rollout.attempts), rollout.config))

    @invariant()
    def store_and_tables_agree(self) -> None:
        stored = {rollout.rollout_id: rollout for rollout in self.run(self.store.query_rollouts())}
        assert {rollout_id: rollout.status for rollout_id, rollout in stored.items()} == {
            rollout_id: rollout.status for rollout_id, rollout in self.model.items()
        }
        for rollout_id, rollout in stored.items():
            assert (rollout.end_time is not None) == (rollout.status in FINISHED)
            attempts = self.run(self.store.query_attempts(rollout_id))
            assert [attempt.status for attempt in attempts] == self.model[rollout_id].attempts
            assert all((attempt.end_time is None) == (attempt.status in LIVE) for attempt in attempts)
        finished = self.run(self.store.wait_for_rollouts(rollout_ids=list(stored), timeout=0))
        assert {rollout.rollout_id for rollout in finished} == {
            rollout_id for rollout_id, rollout in self.model.items() if rollout.status in FINISHED
        }


TestLifecycle = LifecycleMachine.TestCase
TestLifecycle.settings = settings(
    max_examples=25, stateful_step_count=20, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
