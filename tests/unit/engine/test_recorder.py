"""The recorder gives one record for one request, and the counts of holders add up."""

from __future__ import annotations

import asyncio
import dataclasses

from server.engine.inflight import InFlight
from server.engine.memory_chat import ChatCall, ChatParameters
from server.engine.record import EffectiveSampling, EngineRecord
from server.engine.recorder import Recording
from tests.engine_server import request_context


def sampling(n: int = 1) -> EffectiveSampling:
    asked = ChatParameters(messages=[{"role": "user"}], n=n)
    return ChatCall(asked, "m", "id").sampling


def recording(records: list[EngineRecord], n: int = 1) -> Recording:
    return Recording(records.append, request_context("c"), "r", [7, 8], sampling(n), "processed_logprobs", None)


def test_deltas_are_joined_and_the_sink_is_called_once() -> None:
    records: list[EngineRecord] = []
    one = recording(records, n=2)
    one.sampled(0, [1, 2], [-0.5, -1.0], "ab")
    one.sampled(1, [4], [-2.0], "x")
    one.sampled(0, [3], [-0.25], "c")
    one.finished(0, "stop", 3)
    one.cached(2)
    one.close("abort")
    one.close("error")
    (record,) = records
    first, second = record.choices
    assert (first.token_ids, first.logprobs, first.text) == ((1, 2, 3), (-0.5, -1.0, -0.25), "abc")
    assert (first.finish_reason, first.stop_reason, first.seen) == ("stop", 3, True)
    assert (second.token_ids, second.finish_reason, second.seen) == ((4,), "abort", False)
    assert (record.prompt_token_ids, record.cached_prompt_tokens) == ((7, 8), 2)
    assert record.first_token_s is not None
    assert 0 <= record.first_token_s <= record.duration_s
    assert record.started_ms <= record.finished_ms


def test_cumulative_outputs_replace_what_was_there() -> None:
    records: list[EngineRecord] = []
    one = recording(records)
    one.sampled(0, [1], [-0.5], "a", cumulative=True)
    one.sampled(0, [1, 2], [-0.5, -1.0], "ab", cumulative=True)
    one.finished(0, "length", None)
    one.close("error")
    assert (records[0].choices[0].token_ids, records[0].choices[0].text) == ((1, 2), "ab")
    assert records[0].choices[0].logprobs == (-0.5, -1.0)


def test_a_missing_logprob_is_never_filled_in() -> None:
    records: list[EngineRecord] = []
    one = recording(records)
    one.sampled(0, [1], [-0.5], "a")
    one.sampled(0, [2], None, "b")
    one.sampled(0, [3], [-0.5], "c")
    one.close("abort")
    assert records[0].choices[0].token_ids == (1, 2, 3)
    assert records[0].choices[0].logprobs is None


def test_discarded_requests_give_no_record() -> None:
    records: list[EngineRecord] = []
    one = recording(records)
    one.discard()
    one.close("error")
    assert records == []


def test_records_hold_plain_values_only() -> None:
    records: list[EngineRecord] = []
    recording(records).close("abort")
    values = dataclasses.asdict(records[0].sampling).values()
    assert all(isinstance(value, (int, float, str, bool, tuple, type(None))) for value in values)


async def test_drain_waits_for_the_last_holder_and_for_new_ones() -> None:
    counts = InFlight()
    await counts.drain("a")
    with counts.hold("a"):
        with counts.hold("a"), counts.hold("b"):
            assert (counts.count("a"), counts.count("b")) == (2, 1)
            drained = asyncio.create_task(counts.drain("a"))
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not drained.done()
        await counts.drain("b")
    with counts.hold("a"):
        await asyncio.sleep(0)
        assert not drained.done()
    await asyncio.wait_for(drained, 1)
    assert counts.count("a") == 0
