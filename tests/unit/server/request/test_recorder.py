"""Records that wait together are sealed together, each under its own key."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Sequence
from typing import Any

from prometheus_client import CollectorRegistry

from exchange.keys.memory import MemoryKeys
from exchange.keys.port import KeyStore, SubjectKey
from exchange.log.appender import Appender
from exchange.log.memory import MemoryLog
from exchange.log.port import TopicPartition
from schemas.completion import CompletionRecorded
from schemas.sealed import unseal
from schemas.topics import TOPICS
from schemas.wire import decode_event
from server.engine.record import EngineChoice, EngineRecord
from server.metrics import ServerMetrics
from server.request.recorder import Recorder
from tests.engine_server import request_context
from tests.unit.engine.test_recorder import sampling


class SlowKeys(MemoryKeys):
    """A key store whose first answer waits until it is told to come."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[list[str]] = []
        self.first, self.go, self.more = threading.Event(), threading.Event(), threading.Event()
        self.stop_after: int | None = None

    def keys_for(self, subjects: Sequence[str]) -> list[SubjectKey]:
        self.asked.append(list(subjects))
        self.first.set()
        assert self.go.wait(10)
        if self.stop_after is not None and len(self.asked) > self.stop_after:
            assert self.more.wait(30)
        return super().keys_for(subjects)


def record(completion_id: str, user: str) -> EngineRecord:
    return EngineRecord(
        context=dataclasses.replace(request_context(completion_id), end_user=user),
        engine_request_id=f"chatcmpl-{completion_id}",
        prompt_token_ids=(1,),
        choices=(EngineChoice(0, (2, 3), (-0.5, -1.0), f"for {user}", "stop", None, True),),
        sampling=sampling(),
        logprobs_mode="processed_logprobs",
        adapter=None,
        started_ms=1,
        finished_ms=2,
        duration_s=0.1,
        first_token_s=0.05,
        cached_prompt_tokens=0,
    )


def recorder_of(keys: KeyStore, appender: Appender, metrics: ServerMetrics | None = None) -> Recorder:
    return Recorder(
        keys=keys,
        appender=appender,
        metrics=metrics or ServerMetrics(CollectorRegistry()),
        base_fingerprint="0" * 64,
        chat_template_hash="1" * 64,
    )


def events_on(log: MemoryLog) -> list[CompletionRecorded]:
    places = {TopicPartition("attune.completions", n): 0 for n in range(TOPICS["attune.completions"].partitions)}
    events = [decode_event(stored.value, stored.headers) for stored in log.reader(places).poll()]
    return [event for event in events if isinstance(event, CompletionRecorded)]


def test_a_burst_asks_for_its_keys_once() -> None:
    keys, log = SlowKeys(), MemoryLog()
    appender = Appender(log)
    recorder = recorder_of(keys, appender)
    recorder(record("cmpl_0", "user_0"))
    assert keys.first.wait(10)
    for number in (1, 2, 3):
        recorder(record(f"cmpl_{number}", f"user_{number}"))
    keys.go.set()
    assert recorder.close()
    assert appender.close()

    assert keys.asked == [["user_0"], ["user_1", "user_2", "user_3"]]
    events = events_on(log)
    assert len(events) == 4
    for event in events:
        assert event.content is not None
        key = keys.lookup(event.content.key_id)
        assert key is not None
        number = event.completion_id.removeprefix("cmpl_")
        assert f"for user_{number}".encode() in unseal(event.content, key=key.secret, event_id=event.id)


def nested(depth: int) -> list[Any]:
    inner: list[Any] = []
    for _ in range(depth):
        inner = [inner]
    return inner


def test_what_cannot_be_written_is_dropped_and_counted_and_those_behind_it_are_recorded() -> None:
    log, metrics = MemoryLog(), ServerMetrics(CollectorRegistry())
    appender = Appender(log)
    recorder = recorder_of(MemoryKeys(), appender, metrics)
    depths = range(240, 270)  # somewhere here JSON can be read by the library that cannot write it
    for depth in depths:
        deep = record(f"cmpl_{depth}", "mallory")
        messages = ({"role": "user", "content": nested(depth)},)
        recorder(dataclasses.replace(deep, context=dataclasses.replace(deep.context, messages=messages)))
    recorder(record("cmpl_plain", "alice"))
    assert recorder.flush(10)
    assert recorder.alive
    assert recorder.close()
    assert appender.close()
    written = {event.completion_id for event in events_on(log)}
    assert "cmpl_plain" in written
    dropped = metrics._registry.get_sample_value(
        "attune_events_dropped_total", {"topic": "attune.completions", "reason": "invalid"}
    )
    assert dropped == len(depths) + 1 - len(written) > 0


def test_a_flush_waits_for_what_came_before_it_alone() -> None:
    keys = SlowKeys()
    appender = Appender(MemoryLog())
    recorder = recorder_of(keys, appender)
    recorder(record("cmpl_0", "ann"))
    assert keys.first.wait(10)
    flushed: list[bool] = []
    flush = threading.Thread(target=lambda: flushed.append(recorder.flush(60)))
    flush.start()
    while not recorder._waiting.all_tasks_done._waiters:  # type: ignore[attr-defined]
        threading.Event().wait(0.001)
    recorder(record("cmpl_1", "ann"))
    keys.stop_after = 1
    keys.go.set()
    flush.join(30)
    assert flushed == [True]
    assert recorder._waiting.unfinished_tasks == 1
    keys.more.set()
    assert recorder.close()
    assert appender.close()
