"""Records that wait together are sealed together, each under its own key."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Sequence

from prometheus_client import CollectorRegistry

from exchange.keys.memory import MemoryKeys
from exchange.keys.port import SubjectKey
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
        self.first, self.go = threading.Event(), threading.Event()

    def keys_for(self, subjects: Sequence[str]) -> list[SubjectKey]:
        self.asked.append(list(subjects))
        self.first.set()
        assert self.go.wait(10)
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


def test_a_burst_asks_for_its_keys_once() -> None:
    keys, log = SlowKeys(), MemoryLog()
    appender = Appender(log)
    recorder = Recorder(
        keys=keys,
        appender=appender,
        metrics=ServerMetrics(CollectorRegistry()),
        base_fingerprint="0" * 64,
        chat_template_hash="1" * 64,
    )
    recorder(record("cmpl_0", "user_0"))
    assert keys.first.wait(10)
    for number in (1, 2, 3):
        recorder(record(f"cmpl_{number}", f"user_{number}"))
    keys.go.set()
    assert recorder.close()
    assert appender.close()

    assert keys.asked == [["user_0"], ["user_1", "user_2", "user_3"]]
    places = {TopicPartition("attune.completions", n): 0 for n in range(TOPICS["attune.completions"].partitions)}
    events = [decode_event(stored.value, stored.headers) for stored in log.reader(places).poll()]
    assert len(events) == 4
    for event in events:
        assert isinstance(event, CompletionRecorded)
        assert event.content is not None
        key = keys.lookup(event.content.key_id)
        assert key is not None
        number = event.completion_id.removeprefix("cmpl_")
        assert f"for user_{number}".encode() in unseal(event.content, key=key.secret, event_id=event.id)
