"""Every call reaches the store once, whatever the store does, and nobody waits for it."""

from __future__ import annotations

import asyncio
import json
import logging
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from scripted_backend import ScriptedBackend, answer

from agentlightning._internal.ids import generate_id
from agentlightning.llm_proxy import LLMProxy, flush_captures, shipper as shipper_module
from agentlightning.llm_proxy.capture import to_span
from agentlightning.llm_proxy.exchange import Exchange
from agentlightning.llm_proxy.journal import Journal
from agentlightning.llm_proxy.losses import Losses
from agentlightning.llm_proxy.pace import Pace
from agentlightning.llm_proxy.sequence import SequenceReserver
from agentlightning.llm_proxy.shipper import Shipper
from agentlightning.llm_proxy.unknown import UnknownAttempts
from agentlightning.store import InMemoryLightningStore
from agentlightning.types import AttemptedRollout, Span


class TroubledStore(InMemoryLightningStore):
    """Fails as often as it is told to, and takes spans only while its gate is open."""

    def __init__(self) -> None:
        super().__init__()
        self.failures = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def get_many_span_sequence_ids(self, rollout_attempt_ids: Sequence[tuple[str, str]]) -> Sequence[int]:
        self._fail()
        return await super().get_many_span_sequence_ids(rollout_attempt_ids)

    async def add_many_spans(self, spans: Sequence[Span]) -> Sequence[Span]:
        self._fail()
        await self.gate.wait()
        return await super().add_many_spans(spans)

    def _fail(self) -> None:
        if self.failures > 0:
            self.failures -= 1
            raise ConnectionError("the store is away")


@pytest.fixture
async def store() -> TroubledStore:
    return TroubledStore()


class Pipeline:
    """A shipper with its journal and reserver."""

    def __init__(self, directory: Path, store: InMemoryLightningStore) -> None:
        self.reserver = SequenceReserver(lambda: store)
        self.shipper = Shipper(Journal(directory), lambda: store)
        self.shipper.start()

    def call(self, rollout_id: str, attempt_id: str, number: int = 1, response: bytes | None = None) -> None:
        exchange = Exchange(
            rollout_id=rollout_id,
            attempt_id=attempt_id,
            trace_id=generate_id(32),
            path="/chat/completions",
            start_ns=number,
            end_ns=number + 1,
            status=200,
            request=b'{"model": "m"}',
            response=json.dumps(answer({"model": "m"}, number)).encode() if response is None else response,
        )
        self.shipper.add(exchange, self.reserver.reserve(rollout_id, attempt_id))

    async def close(self, deadline: float = 5.0) -> bool:
        shipped = await self.shipper.close(deadline)
        await self.reserver.close()
        return shipped


def ids(attempted: AttemptedRollout) -> tuple[str, str]:
    return attempted.rollout_id, attempted.attempt.attempt_id


async def response_ids(store: InMemoryLightningStore, attempted: AttemptedRollout) -> list[object]:
    return [span.attributes["gen_ai.response.id"] for span in await store.query_spans(attempted.rollout_id)]


@pytest.mark.parametrize("failures", [0, 1, 2, 3])
async def test_a_failing_store_is_tried_again(
    tmp_path: Path, store: TroubledStore, attempted: AttemptedRollout, failures: int
) -> None:
    pipeline = Pipeline(tmp_path, store)
    store.failures = failures
    for number in range(3):
        pipeline.call(*ids(attempted), number)
    assert await pipeline.shipper.flush(*ids(attempted), 5)
    assert await response_ids(store, attempted) == [f"chatcmpl-{number}" for number in range(3)]
    assert await pipeline.close()
    assert Journal(tmp_path).seal() == []


async def test_calls_of_unknown_rollouts_are_dropped_and_their_neighbours_kept(
    tmp_path: Path, store: TroubledStore, attempted: AttemptedRollout, caplog: pytest.LogCaptureFixture
) -> None:
    pipeline = Pipeline(tmp_path, store)
    pipeline.call(*ids(attempted), 1)
    pipeline.call("nobody", "a", 2)
    pipeline.call(*ids(attempted), 3)
    assert await pipeline.close()
    assert await response_ids(store, attempted) == ["chatcmpl-1", "chatcmpl-3"]
    assert "dropped" in caplog.text


async def test_what_a_stopped_gateway_could_not_ship_the_next_one_does(
    tmp_path: Path, store: TroubledStore, attempted: AttemptedRollout
) -> None:
    first = Pipeline(tmp_path, store)
    store.gate.clear()
    first.call(*ids(attempted))
    assert not await first.close(deadline=0.05)
    store.gate.set()
    second = Pipeline(tmp_path, store)
    assert await second.shipper.flush(*ids(attempted), 5)
    assert await response_ids(store, attempted) == ["chatcmpl-1"]
    assert await second.close()


async def test_shipping_a_segment_again_changes_nothing(
    tmp_path: Path, store: TroubledStore, attempted: AttemptedRollout
) -> None:
    first = Pipeline(tmp_path / "journal", store)
    first.call(*ids(attempted))
    shutil.copytree(tmp_path / "journal", tmp_path / "copy")  # as if the process died before the file was deleted
    assert await first.close()
    second = Pipeline(tmp_path / "copy", store)
    assert await second.close()
    assert await response_ids(store, attempted) == ["chatcmpl-1"]


HUGE = 10**400
ODD: dict[str, dict[str, Any]] = {
    "logprob": {"logprobs": {"content": [{"logprob": -HUGE}, {"logprob": -0.5}]}},
    "token": {"token_ids": [HUGE, 1]},
    "no logprob": {"logprobs": {"content": [{}, {}]}},
    "text for a message": {"message": "hello"},
    "numbers for a message": {"message": {"role": 1, "content": [HUGE]}},
    "half a character": {"message": {"role": "assistant", "content": "\ud800"}},
}


@pytest.mark.parametrize("name", ODD)
async def test_an_answer_in_an_odd_form_costs_no_other_call(
    tmp_path: Path, store: TroubledStore, attempted: AttemptedRollout, name: str
) -> None:
    pipeline = Pipeline(tmp_path, store)
    odd = answer({"model": "m"}, 1)
    odd["choices"][0] |= ODD[name]
    async with asyncio.timeout(30):
        pipeline.call(*ids(attempted), 1, json.dumps(odd).encode())
        pipeline.call(*ids(attempted), 2)
        assert await pipeline.shipper.flush(*ids(attempted), 20)
        pipeline.call(*ids(attempted), 3)
        assert await pipeline.close()
    spans = await store.query_spans(attempted.rollout_id)
    seen = [span.attributes.get("gen_ai.response.id") for span in spans]
    assert [each for each in seen if each in ("chatcmpl-2", "chatcmpl-3")] == ["chatcmpl-2", "chatcmpl-3"]
    assert len(spans) + pipeline.shipper.losses.total == 3


async def test_a_call_that_cannot_be_read_at_all_is_counted_as_lost(
    tmp_path: Path,
    store: TroubledStore,
    attempted: AttemptedRollout,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def refuse(exchange: Exchange, pace: Pace) -> Span:
        if exchange.start_ns == 1:
            raise AssertionError("nobody thought of this")
        return await to_span(exchange, pace)

    monkeypatch.setattr(shipper_module, "to_span", refuse)
    pipeline = Pipeline(tmp_path, store)
    for number in (1, 2):
        pipeline.call(*ids(attempted), number)
    assert await pipeline.close()
    assert await response_ids(store, attempted) == ["chatcmpl-2"]
    assert pipeline.shipper.losses.of(ids(attempted)) == 1
    assert "nobody thought of this" in caplog.text


class HangingStore(TroubledStore):
    """Answers the first operation of each of these names never, though it may do what it was asked for."""

    def __init__(self, hanging: set[str]) -> None:
        super().__init__()
        self.hanging = hanging

    async def get_many_span_sequence_ids(self, rollout_attempt_ids: Sequence[tuple[str, str]]) -> Sequence[int]:
        await self._hang("get_many_span_sequence_ids")
        return await super().get_many_span_sequence_ids(rollout_attempt_ids)

    async def add_many_spans(self, spans: Sequence[Span]) -> Sequence[Span]:
        written = await super().add_many_spans(spans)
        await self._hang("add_many_spans")
        return written

    async def _hang(self, name: str) -> None:
        if name in self.hanging:
            self.hanging.remove(name)
            await asyncio.Event().wait()


@pytest.mark.parametrize("hanging", ["get_many_span_sequence_ids", "add_many_spans"])
async def test_an_operation_of_the_store_that_never_ends_is_tried_again(
    tmp_path: Path, hanging: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shipper_module, "_STORE_SECONDS", 0.1)
    monkeypatch.setattr(shipper_module, "_SEQUENCE_SECONDS", 0.1)
    store = HangingStore({hanging})
    attempted = await store.start_rollout(input={})
    pipeline = Pipeline(tmp_path, store)
    async with asyncio.timeout(30):
        for number in range(2):
            pipeline.call(*ids(attempted), number)
            assert await pipeline.shipper.flush(*ids(attempted), 20)
        assert await pipeline.close()
    assert await response_ids(store, attempted) == ["chatcmpl-0", "chatcmpl-1"]


class WatchedStore(TroubledStore):
    """Remembers whose spans were written in one operation, and for whom numbers were asked."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[list[str]] = []
        self.asked: list[list[str]] = []

    async def get_many_span_sequence_ids(self, rollout_attempt_ids: Sequence[tuple[str, str]]) -> Sequence[int]:
        self.asked.append([rollout_id for rollout_id, _ in rollout_attempt_ids])
        return await super().get_many_span_sequence_ids(rollout_attempt_ids)

    async def add_many_spans(self, spans: Sequence[Span]) -> Sequence[Span]:
        self.written.append([span.rollout_id for span in spans])
        return await super().add_many_spans(spans)


async def test_an_unknown_rollout_spoils_no_operation_for_others_twice(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = WatchedStore()
    known = [await store.start_rollout(input={}) for _ in range(3)]
    pipeline = Pipeline(tmp_path, store)
    for _ in range(2):
        store.written.clear()
        store.asked.clear()
        for attempted in known:
            pipeline.call("nobody", "a")
            pipeline.call(*ids(attempted))
        async with asyncio.timeout(30):
            assert await pipeline.shipper.flush("nobody", "a", 20)
            for attempted in known:
                assert await pipeline.shipper.flush(*ids(attempted), 20)
    names = [attempted.rollout_id for attempted in known]
    assert store.written == [names]
    assert store.asked == [names, ["nobody"] * 3]  # not with others, and once for all of its calls
    assert pipeline.shipper.losses.of(("nobody", "a")) == 6
    assert len([each for each in caplog.records if "dropped" in each.message]) == 1
    assert await pipeline.close()


def test_an_attempt_that_was_unknown_is_asked_for_again_after_a_while() -> None:
    now = 0.0
    unknown = UnknownAttempts(lambda: now)
    unknown.add(("r", "a"))
    assert (("r", "a") in unknown, ("r", "b") in unknown) == (True, False)
    now = 10.0
    assert ("r", "a") not in unknown


def files(directory: Path, pattern: str = "*") -> list[Path]:
    return list(directory.glob(pattern))


def set_aside(directory: Path) -> list[bytes]:
    return [path.read_bytes() for path in files(directory, "*.bad")]


async def test_a_segment_that_is_removed_or_spoilt_costs_its_calls_and_no_more(
    tmp_path: Path, store: TroubledStore, attempted: AttemptedRollout, caplog: pytest.LogCaptureFixture
) -> None:
    pipeline = Pipeline(tmp_path, store)
    for number, spoil in enumerate([Path.unlink, lambda path: path.write_bytes(b"spoilt\n")]):
        pipeline.call(*ids(attempted), number)
        spoil(files(tmp_path, "*.journal")[0])
        assert await pipeline.shipper.flush(*ids(attempted), 5)
        assert "(1 known) do not reach the store" in caplog.text
        caplog.clear()
    pipeline.call(*ids(attempted), 2)
    assert await pipeline.shipper.flush(*ids(attempted), 5)
    assert await pipeline.close()
    assert await response_ids(store, attempted) == ["chatcmpl-2"]
    assert set_aside(tmp_path) == [b"spoilt\n"]
    assert files(tmp_path, "*.journal") == []


async def test_a_file_that_cannot_be_deleted_stops_nothing(
    tmp_path: Path, store: TroubledStore, attempted: AttemptedRollout, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError("read-only")

    pipeline = Pipeline(tmp_path, store)
    for name in ("unlink", "rename"):
        monkeypatch.setattr(Path, name, refuse)
    for number in range(2):
        pipeline.call(*ids(attempted), number)
        assert await pipeline.shipper.flush(*ids(attempted), 5)
    assert await pipeline.close()
    assert await response_ids(store, attempted) == ["chatcmpl-0", "chatcmpl-1"]


async def test_an_unreadable_leftover_is_set_aside_and_the_rest_replayed(
    tmp_path: Path, store: TroubledStore, attempted: AttemptedRollout
) -> None:
    store.gate.clear()
    first = Pipeline(tmp_path, store)
    first.call(*ids(attempted))
    assert not await first.close(deadline=0.01)
    (kept,) = files(tmp_path, "*.journal")
    kept.write_bytes(kept.read_bytes() + b'{"rollout_id": "r", "atte')  # killed in the middle of a write
    (tmp_path / "0-0.journal").write_bytes(b"spoilt\n")
    store.gate.set()
    second = Pipeline(tmp_path, store)
    assert await second.close()
    assert await response_ids(store, attempted) == ["chatcmpl-1"]
    assert set_aside(tmp_path) == [b"spoilt\n"]
    assert files(tmp_path, "*.journal") == []


async def test_a_gateway_whose_temporary_files_were_removed_goes_on_and_stops(
    tmp_path: Path,
    store: TroubledStore,
    attempted: AttemptedRollout,
    backend: ScriptedBackend,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    proxy = LLMProxy(model_list=[backend.model_config], store=store)
    await proxy.start()
    url = f"{proxy.as_resource(*ids(attempted)).endpoint}/chat/completions"
    async with asyncio.timeout(10), aiohttp.ClientSession() as session:
        shutil.rmtree(files(tmp_path)[0])
        async with session.post(url, json={"model": "policy"}) as reply:
            assert reply.status == 200
        await flush_captures({"llm": proxy.as_resource()}, *ids(attempted))
        assert await response_ids(store, attempted) == ["chatcmpl-1"]
        shutil.rmtree(files(tmp_path)[0])
        await proxy.stop()


async def test_no_reply_waits_for_the_store(
    store: TroubledStore, attempted: AttemptedRollout, backend: ScriptedBackend, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    async with asyncio.timeout(10), aiohttp.ClientSession() as session:
        proxy = LLMProxy(model_list=[backend.model_config], store=store)
        await proxy.start()
        endpoint = proxy.as_resource(*ids(attempted)).endpoint
        flush = endpoint.removesuffix("/v1") + "/flush"
        store.gate.clear()
        async with session.post(f"{endpoint}/chat/completions", json={"model": "policy"}) as reply:
            assert reply.status == 200
        async with session.post(flush, params={"deadline": "0.05"}) as reply:
            assert (reply.status, (await reply.json())["error"]["code"]) == (504, "flush_timeout")
        store.gate.set()
        async with session.post(flush) as reply:
            assert reply.status == 200
        assert await response_ids(store, attempted) == ["chatcmpl-1"]
        await proxy.stop()


async def test_a_full_journal_fails_no_call_and_says_what_is_missing(
    store: TroubledStore,
    attempted: AttemptedRollout,
    backend: ScriptedBackend,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with asyncio.timeout(30), aiohttp.ClientSession() as session:
        proxy = LLMProxy(model_list=[backend.model_config], store=store, journal_bytes=1000)
        await proxy.start()
        endpoint = proxy.as_resource(*ids(attempted)).endpoint
        root = proxy.as_resource().endpoint.removesuffix("/v1")
        store.gate.clear()
        for _ in range(4):
            async with session.post(f"{endpoint}/chat/completions", json={"model": "policy"}) as reply:
                assert (reply.status, len(await reply.read()) > 100) == (200, True)
        event = {"event_type": "note", "data": {"text": "x" * 1000}}
        events = f"{root}/api/rollouts/{ids(attempted)[0]}/attempt/{ids(attempted)[1]}/events"
        async with session.post(events, json=event) as reply:
            assert (reply.status, (await reply.json())["error"]["code"]) == (507, "journal_full")
        store.gate.set()
        async with session.post(endpoint.removesuffix("/v1") + "/flush") as reply:
            error = (await reply.json())["error"]
            assert (reply.status, error["code"]) == (507, "calls_lost")
        assert len(said := [each for each in caplog.records if "not recorded" in each.message]) == 1
        assert "is full" in said[0].message
        recorded = len(await response_ids(store, attempted))
        assert 0 < recorded < 4
        assert error["message"].startswith(f"{4 + 1 - recorded} calls")
        async with session.post(f"{endpoint}/chat/completions", json={"model": "policy"}) as reply:
            assert reply.status == 200
        await flush_captures({"llm": proxy.as_resource()}, *ids(attempted))
        assert "calls_lost" in caplog.text
        assert len(await response_ids(store, attempted)) == recorded + 1
        await proxy.stop()


def test_losses_are_said_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    losses = Losses(lambda: now)
    for second in range(120):
        now = float(second)
        losses.add_unwritten(("r", "a"), OSError("the disk is full"))
    assert [each.message for each in caplog.records] == [
        f"model calls are answered and not recorded, {count} so far, the last of rollout r: the disk is full"
        for count in (1, 61)
    ]
    assert (losses.total, losses.journal_full, losses.of(("r", "a")), losses.of(("r", "b"))) == (120, 120, 120, 0)


def test_losses_of_many_attempts_are_forgotten_the_oldest_first() -> None:
    losses = Losses()
    for number in range(10_001):
        losses.add(("r", str(number)))
    assert [losses.of(("r", name)) for name in ("0", "1", "10000")] == [0, 1, 1]
    assert losses.total == 10_001


async def test_a_shipper_that_cannot_go_on_says_so_and_stops_without_an_error(
    tmp_path: Path, store: TroubledStore, attempted: AttemptedRollout, caplog: pytest.LogCaptureFixture
) -> None:
    pipeline = Pipeline(tmp_path, store)
    assert await pipeline.shipper.flush(*ids(attempted), 5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Journal, "seal", raising(OSError("the disk is gone")))
        pipeline.call(*ids(attempted))
        assert not await pipeline.shipper.flush(*ids(attempted), 0.1)
    assert not await pipeline.close(deadline=0.1)
    assert "the journal keeps them" in caplog.text
    later = Pipeline(tmp_path, store)
    assert await later.shipper.flush(*ids(attempted), 20)
    assert await later.close()
    assert await response_ids(store, attempted) == ["chatcmpl-1"]


def raising(error: Exception) -> Any:
    def refuse(*_: object) -> None:
        raise error

    return refuse
