"""Following the journal: news at once, nobody starved, and life goes on when the log is away."""

from __future__ import annotations

import asyncio
import time

from exchange.journal import PolicyJournal
from exchange.log.memory import MemoryLog
from exchange.log.port import EventLog
from schemas.base import new_id, now_ms
from schemas.journal import LeaseAcquired
from server.control.follower import JournalFollower
from tests.unit.server.control.world import until


def _lease() -> LeaseAcquired:
    return LeaseAcquired(id=new_id("je"), at=now_ms(), policy="support", actor="t", holder="t", ttl_ms=1000)


async def test_proposals_of_the_same_process_do_not_wait_for_the_follower(log: EventLog) -> None:
    journal = PolicyJournal(log)
    follower = JournalFollower(journal, lambda: None)
    await follower.start()
    took = []
    for _ in range(20):
        began = time.perf_counter()
        await asyncio.to_thread(journal.propose, _lease())
        took.append(time.perf_counter() - began)
    await follower.close()
    journal.close()
    assert journal.state("support").lease.epoch == 20
    assert sorted(took)[10] < 0.1


async def test_news_from_elsewhere_reach_the_loop(log: EventLog) -> None:
    journal, elsewhere, news = PolicyJournal(log), PolicyJournal(log), asyncio.Event()
    follower = JournalFollower(journal, news.set)
    await follower.start()
    assert follower.alive
    await asyncio.to_thread(elsewhere.propose, _lease())
    await asyncio.wait_for(news.wait(), 5)
    assert journal.state("support").lease.epoch == 1
    await follower.close()
    assert not follower.alive
    journal.close()
    elsewhere.close()


async def test_a_log_that_is_away_is_noticed_and_does_not_end_the_follower() -> None:
    log = MemoryLog()
    follower = JournalFollower(PolicyJournal(log), lambda: None)
    await follower.start()
    assert follower.reachable
    log.close()
    await until(lambda: not follower.reachable)
    assert follower.alive
    await follower.close()
