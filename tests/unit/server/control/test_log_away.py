"""The whole server while the event log is away: at its start, while it serves, and when the log comes back."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from exchange.log.port import TopicPartition
from exchange.registry.memory import MemoryRegistry
from schemas.topics import COMPLETIONS, FEEDBACK, Topic
from tests.flaky_log import FlakyLog
from tests.unit.server.control.whole import Whole, open_server
from tests.unit.server.control.world import Operator, publish, until

QUICK = {"spool": {"after_seconds": 20.0, "retry_seconds": 0.01}}
CHAT = {"model": "support", "messages": [{"role": "user", "content": "hello"}]}


@pytest.fixture
def log() -> FlakyLog:
    return FlakyLog()


def written(log: FlakyLog, topic: Topic) -> int:
    return sum(log.end_offset(TopicPartition(topic.name, number)) for number in log.partitions(topic.name))


async def chat(server: Whole) -> dict[str, Any]:
    answer = await server.send("/v1/chat/completions", CHAT)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def thumb(server: Whole, handle: str, **more: str) -> dict[str, Any]:
    said = await server.send("/v1/feedback", {"handle": handle, "kind": "thumbs", "value": "up", **more})
    return {"code": said.status_code, **said.json()}


async def ready(server: Whole) -> tuple[int, dict[str, Any]]:
    answer = await server.http.get("/readyz")
    return answer.status_code, answer.json()


async def test_a_server_starts_and_serves_without_the_log_and_tells_it_everything_later(
    log: FlakyLog, tmp_path: Path
) -> None:
    log.away = True
    async with open_server(tmp_path, log=log, **QUICK) as server:
        answers = [await chat(server) for _ in range(3)]
        assert answers[0]["model"] == "support@v0"
        words = [await thumb(server, one["attune"]["handles"][0]) for one in answers]
        assert {(word["code"], word["status"], word["durable"]) for word in words} == {(200, "stored", "spool")}
        code, told = await ready(server)
        assert (code, told["status"], told["log"], told["journal"]) == (200, "ok", "away", "away")
        assert told["log_away_seconds"] >= 0
        assert told["spool_bytes"] > 0
        assert told["spool_oldest_seconds"] is not None
        metrics = (await server.http.get("/metrics")).text
        assert "attune_log_away_seconds 0.0\n" not in metrics
        assert f"attune_spool_bytes {float(told['spool_bytes'])}\n" in metrics
        refused = await server.send(
            "/v1/admin/policies/support/promote", {"version": "support@v1"}, {"content-type": "application/json"}
        )
        assert refused.status_code == 503
        assert "never queued" in refused.json()["error"]["message"]

        log.away = False
        await until(lambda: server.application.follower.reachable)
        await until(lambda: written(log, FEEDBACK) == 3)
        await until(lambda: written(log, COMPLETIONS) == 3)
        assert (await thumb(server, answers[0]["attune"]["handles"][0]))["durable"] == "log"
        code, told = await ready(server)
        assert (code, told["log"], told["journal"], told["spool_bytes"]) == (200, "ok", "followed", 0)


async def test_an_idempotency_key_gets_the_same_answer_after_the_log_is_back(log: FlakyLog, tmp_path: Path) -> None:
    log.away = True
    async with open_server(tmp_path, log=log, **QUICK) as server:
        handle = (await chat(server))["attune"]["handles"][0]
        first = await thumb(server, handle, idempotency_key="mine")
        log.away = False
        await until(lambda: written(log, FEEDBACK) == 1)
        assert await thumb(server, handle, idempotency_key="mine") == first
        assert written(log, FEEDBACK) == 1


async def test_a_restart_without_the_log_serves_what_the_journal_said_last(log: FlakyLog, tmp_path: Path) -> None:
    registry, operator = MemoryRegistry(), Operator(log)
    operator.candidate(1, publish(registry, tmp_path, 1).digest)
    async with open_server(tmp_path, log=log, registry=registry, **QUICK) as server:
        operator.promote(1)
        await until(lambda: server.application.swapper.table("support").stable == 1)
        await until(lambda: (tmp_path / "data" / "served.json").exists())
        await until(lambda: b'"stable":1' in (tmp_path / "data" / "served.json").read_bytes())
    log.away = True
    async with open_server(tmp_path, log=log, registry=registry, **QUICK) as server:
        await until(lambda: server.application.swapper.settled)
        assert (await chat(server))["model"] == "support@v1"
        assert (await ready(server))[0] == 200
        log.away = False
        await until(lambda: server.application.follower.reachable)
        operator.rollback(1)
        await until(lambda: server.application.swapper.table("support").stable == 0)


async def test_without_log_and_adapter_the_base_serves(log: FlakyLog, tmp_path: Path) -> None:
    registry, operator = MemoryRegistry(), Operator(log)
    operator.candidate(1, publish(registry, tmp_path, 1).digest)
    operator.promote(1)
    async with open_server(tmp_path, log=log, registry=registry, **QUICK):
        await until(lambda: (tmp_path / "data" / "served.json").exists())
    log.away = True
    async with open_server(tmp_path, log=log, registry=MemoryRegistry(), **QUICK) as server:
        await until(lambda: server.application.swapper.settled)
        assert (await chat(server))["model"] == "support@v0"
        assert (await ready(server))[0] == 200


async def test_a_full_spool_refuses_words_clearly_while_chats_go_on(log: FlakyLog, tmp_path: Path) -> None:
    log.away = True
    sections = {"spool": {**QUICK["spool"], "max_bytes": 2**20}}
    async with open_server(tmp_path, log=log, **sections) as server:
        handle = (await chat(server))["attune"]["handles"][0]
        filler = {"model": "support", "messages": [{"role": "user", "content": "x" * 200_000}]}
        for _ in range(6):
            assert (await server.send("/v1/chat/completions", filler)).status_code == 200
        dropped = 'attune_events_dropped_total{reason="spool_full",topic="attune.completions"}'
        await until(lambda: dropped in server.application.metrics.text().decode())
        comment = {"handle": handle, "kind": "comment", "comment": "y" * 9_000}
        for _ in range(100):
            last = await server.send("/v1/feedback", comment)
            if last.status_code != 200:
                break
        assert last.status_code == 503
        assert "the spool that waits for it is full" in last.json()["error"]["message"]
        assert "spool.max_bytes" in last.json()["error"]["message"]
        code, told = await ready(server)
        assert (code, told["status"]) == (503, "the event log is away and the spool has no room")
        await chat(server)
        log.away = False
        await until(lambda: server.application.appender.state().spool_bytes == 0)
        assert (await ready(server))[0] == 200
        assert (await thumb(server, handle))["durable"] == "log"


async def test_stopping_without_the_log_leaves_all_to_the_next_start(log: FlakyLog, tmp_path: Path) -> None:
    log.away = True
    async with open_server(tmp_path, log=log, **QUICK) as server:
        await asyncio.gather(*(chat(server) for _ in range(20)))
    log.away = False
    assert written(log, COMPLETIONS) == 0
    async with open_server(tmp_path, log=log, **QUICK):
        await until(lambda: written(log, COMPLETIONS) == 20)


@pytest.mark.parametrize(
    ("part", "why"),
    [("recorder", "completions are not recorded any more"), ("appender", "events are not brought to the log any more")],
)
async def test_a_server_that_brings_nothing_to_the_log_any_more_asks_for_a_restart(
    log: FlakyLog, tmp_path: Path, part: str, why: str
) -> None:
    async with open_server(tmp_path, log=log, **QUICK) as server:
        assert (await server.http.get("/livez")).status_code == 200
        ended = getattr(server.application, part)
        assert await asyncio.to_thread(ended.close)
        await until(lambda: not ended.alive)
        told = await server.http.get("/livez")
        assert (told.status_code, told.json()["status"]) == (503, why)
