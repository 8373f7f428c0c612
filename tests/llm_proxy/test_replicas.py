"""A rollout's calls go to one replica as long as that is healthy, and nobody else's move when one is lost."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, strategies as st

from agentlightning.llm_proxy.backends import Backend
from agentlightning.llm_proxy.replicas import Replicas

ROLLOUTS = [f"ro-{number}" for number in range(600)]


def backends(count: int) -> list[Backend]:
    return [Backend("policy", f"http://gpu-{number}:8000/v1", None) for number in range(count)]


def chosen(replicas: Replicas) -> dict[str, str]:
    return {rollout: replicas.choose(rollout).api_base for rollout in ROLLOUTS}


def lose(backend: Backend) -> None:
    backend.health.fail(silent=True)
    assert backend.health.out


def test_each_replica_gets_its_share_of_the_rollouts() -> None:
    shares = Counter(chosen(Replicas(backends(4))).values())
    assert len(shares) == 4
    assert all(100 < share < 200 for share in shares.values())


def test_every_gateway_chooses_the_same_whatever_the_order_of_its_list() -> None:
    assert chosen(Replicas(backends(5))) == chosen(Replicas(backends(5)[::-1]))


def test_the_choice_is_that_of_every_version() -> None:
    # Gateways of one run may be restarted with a newer version while engines keep their caches.
    replicas = Replicas(backends(3))
    assert [replicas.choose(f"ro-{number}").api_base[11] for number in range(6)] == ["2", "1", "0", "2", "0", "0"]


def test_only_rollouts_of_a_lost_replica_move_and_they_come_back() -> None:
    replicas = Replicas(backends(3))
    before = chosen(replicas)
    lost = replicas.backends[1]
    lose(lost)
    during = chosen(replicas)
    assert {rollout for rollout in ROLLOUTS if during[rollout] != before[rollout]} == {
        rollout for rollout in ROLLOUTS if before[rollout] == lost.api_base
    }
    assert lost.api_base not in during.values()
    assert len(set(during.values())) == 2
    lost.health.give_trial()
    assert chosen(replicas) == before


def test_only_as_many_rollouts_move_as_a_new_replica_takes() -> None:
    before, after = chosen(Replicas(backends(3))), chosen(Replicas(backends(4)))
    new = backends(4)[3].api_base
    assert {after[rollout] for rollout in ROLLOUTS if after[rollout] != before[rollout]} == {new}


def test_calls_of_no_rollout_take_turns_among_the_healthy() -> None:
    replicas = Replicas(backends(3))
    assert Counter(replicas.choose(None).api_base for _ in range(30)) == dict.fromkeys(
        (backend.api_base for backend in replicas.backends), 10
    )
    lose(replicas.backends[0])
    assert Counter(replicas.choose(None).api_base for _ in range(30)) == dict.fromkeys(
        (backend.api_base for backend in replicas.backends[1:]), 15
    )


@given(
    st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=6),
    st.one_of(st.none(), st.text()),
)
def test_a_healthy_replica_that_was_not_tried_is_preferred_and_any_is_better_than_none(
    states: list[tuple[bool, bool]], rollout_id: str | None
) -> None:
    replicas = Replicas(backends(len(states)))
    tried: list[Backend] = []
    for backend, (out, was_tried) in zip(replicas.backends, states, strict=True):
        if out:
            lose(backend)
        if was_tried:
            tried.append(backend)
    got = replicas.choose(rollout_id, tried)

    def rank(backend: Backend) -> tuple[bool, bool]:
        return backend in tried, backend.health.out

    assert rank(got) == min(rank(backend) for backend in replicas.backends)


@pytest.mark.parametrize("rollout_id", ["ro-1", None])
def test_one_backend_is_asked_even_if_it_failed(rollout_id: str | None) -> None:
    replicas = Replicas(backends(1))
    lose(replicas.backends[0])
    assert replicas.choose(rollout_id, replicas.backends) is replicas.backends[0]
