"""The policy journal on every log: proposals, outcomes, racing writers, foreign records."""

from __future__ import annotations

import logging
import threading
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exchange.journal import PolicyJournal
from exchange.log.memory import MemoryLog
from exchange.log.port import EventLog
from schemas.base import new_id
from schemas.errors import Refused, Unavailable
from schemas.events import ReplicaReported
from schemas.journal import (
    CanaryStarted,
    CandidatePublished,
    Entry,
    LeaseAcquired,
    VersionPromoted,
    VersionReserved,
    VersionRolledBack,
)
from schemas.lifecycle import PolicyFold, Stage, initial_state
from schemas.topics import POLICY
from schemas.wire import LogRecord, encode_event
from tests.golden.samples import SAMPLES
from tests.unit.schemas.test_lifecycle import ANY_ENTRY

SHA = "ab" * 32


@pytest.fixture
def policy() -> str:
    """A policy of the test's own: the broker's journal is shared by the session and kept for ever."""
    return new_id("policy")[:40].replace("_", "-")


def entry(model: type, policy: str, **fields: Any) -> Entry:
    made: Entry = model(**({"id": new_id("j"), "at": 0, "policy": policy, "actor": "test"} | fields))
    return made


def publish(journal: PolicyJournal, policy: str, version: int) -> None:
    epoch = journal.propose(entry(LeaseAcquired, policy, holder="t1", ttl_ms=1000)).lease.epoch
    journal.propose(entry(VersionReserved, policy, epoch=epoch, version=version))
    fields = {"epoch": epoch, "version": version, "digest": SHA, "parent": 0, "kl_nats_per_sequence": 1.0}
    journal.propose(entry(CandidatePublished, policy, **fields))


def test_a_proposal_answers_with_the_state_it_made(log: EventLog, policy: str) -> None:
    journal = PolicyJournal(log)
    assert journal.state(policy) == initial_state(policy)
    publish(journal, policy, 1)
    state = journal.propose(entry(VersionPromoted, policy, version=1, expected_generation=2))
    assert (state.stable, state.generation) == (1, 3)
    assert journal.state(policy) == state
    assert policy in journal.policies()
    assert journal.propose(entry(VersionRolledBack, policy, version=1)).stable == 0
    journal.close()


def test_a_refused_proposal_raises_with_the_reason_and_stays_in_the_history(log: EventLog, policy: str) -> None:
    journal = PolicyJournal(log)
    publish(journal, policy, 1)
    journal.propose(entry(VersionPromoted, policy, version=1))
    stale = entry(VersionRolledBack, policy, version=1, expected_generation=0)
    with pytest.raises(Refused, match="stale: the policy is at generation 3, not 0"):
        journal.propose(stale)
    assert journal.state(policy).stable == 1
    lines = journal.history(policy)
    assert [line.entry.entry for line in lines] == [
        "lease_acquired",
        "version_reserved",
        "candidate_published",
        "version_promoted",
        "version_rolled_back",
    ]
    assert [line.outcome.applied for line in lines] == [True, True, True, True, False]
    assert lines[-1].entry == stale
    assert [line.position.offset for line in lines] == sorted({line.position.offset for line in lines})
    journal.close()


def test_a_second_reader_sees_the_same(log: EventLog, policy: str) -> None:
    writer, follower = PolicyJournal(log), PolicyJournal(log)
    publish(writer, policy, 1)
    assert follower.refresh()
    assert follower.state(policy) == writer.state(policy)
    assert follower.history(policy) == writer.history(policy)
    assert not follower.refresh()
    writer.propose(entry(CanaryStarted, policy, version=1, share=0.25))
    assert follower.refresh(timeout_s=5.0)
    assert follower.state(policy).canary == 1
    writer.close()
    follower.close()


def test_a_waiting_follower_does_not_hold_up_the_state(log: EventLog, policy: str) -> None:
    follower, writer = PolicyJournal(log), PolicyJournal(log)
    follower.refresh()
    woken: list[bool] = []
    waiting = threading.Thread(target=lambda: woken.append(follower.refresh(timeout_s=30.0)))
    waiting.start()
    assert follower.state(policy).generation == 0
    publish(writer, policy, 1)
    waiting.join(timeout=20)
    assert woken == [True]
    writer.close()
    follower.close()


def test_the_same_entry_proposed_twice_counts_once(log: EventLog, policy: str) -> None:
    journal = PolicyJournal(log)
    publish(journal, policy, 1)
    promote = entry(VersionPromoted, policy, version=1)
    first = journal.propose(promote)
    again = journal.propose(promote)
    assert again.generation == first.generation
    assert [line.entry.id for line in journal.history(policy)].count(promote.id) == 1
    journal.close()


def test_one_of_many_racing_writers_wins(log: EventLog, policy: str) -> None:
    """Six operators promote six versions from one generation: one is applied, five are told why not."""
    seed = PolicyJournal(log)
    for version in range(1, 7):
        publish(seed, policy, version)
    generation = seed.state(policy).generation
    start = threading.Barrier(6)
    won: list[int] = []
    refused: list[str] = []

    def promote(version: int) -> None:
        journal = PolicyJournal(log)
        proposal = entry(VersionPromoted, policy, version=version, expected_generation=generation)
        start.wait()
        try:
            journal.propose(proposal)
            won.append(version)
        except Refused as error:
            refused.append(error.message)
        journal.close()

    threads = [threading.Thread(target=promote, args=(version,)) for version in range(1, 7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seed.refresh(timeout_s=5.0)
    assert len(won) == 1
    assert refused == [f"stale: the policy is at generation {generation + 1}, not {generation}"] * 5
    assert seed.state(policy).stable == won[0]
    assert [line.outcome.applied for line in seed.history(policy)].count(False) == 5
    seed.close()


def test_threads_share_one_journal(log: EventLog, policy: str) -> None:
    journal = PolicyJournal(log)

    def renew() -> None:
        for _ in range(5):
            journal.propose(entry(LeaseAcquired, policy, holder="t1", ttl_ms=1000))

    threads = [threading.Thread(target=renew) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert journal.state(policy).lease.epoch == 20
    assert len(journal.history(policy)) == 20
    journal.close()


def test_foreign_records_are_skipped_and_counted(log: EventLog, policy: str, caplog: pytest.LogCaptureFixture) -> None:
    journal = PolicyJournal(log)
    journal.refresh()
    before = journal.unreadable
    report = SAMPLES["replica_reported"]
    assert isinstance(report, ReplicaReported)
    misplaced = encode_event(report)
    with caplog.at_level(logging.WARNING, logger="exchange.journal"):
        log.append(
            [
                LogRecord(POLICY.name, b"x", b"not JSON", (("ce_type", b"attune.policy.v1"),)),
                LogRecord(POLICY.name, b"x", b"{}", (("ce_type", b"attune.policy.v9"),)),
                LogRecord(POLICY.name, b"x", b"{}", ()),
                LogRecord(POLICY.name, b"x", misplaced.value, misplaced.headers),
            ]
        )
        publish(journal, policy, 1)
    assert journal.unreadable == before + 4
    assert len([said for said in caplog.records if said.name == "exchange.journal"]) == 4
    assert journal.state(policy).versions[1].stage is Stage.CANDIDATE
    journal.close()


def test_a_closed_log_is_unavailable(log: EventLog, policy: str) -> None:
    journal = PolicyJournal(log)
    log.close()
    with pytest.raises(Unavailable):
        journal.propose(entry(LeaseAcquired, policy, holder="t1", ttl_ms=1000))


def test_an_entry_that_cannot_be_read_back_is_unavailable(policy: str) -> None:
    class Swallowing(MemoryLog):
        def append(self, records: Any) -> Any:
            return []

    journal = PolicyJournal(Swallowing(), read_timeout_s=0.1)
    with pytest.raises(Unavailable, match="could not be read back"):
        journal.propose(entry(LeaseAcquired, policy, holder="t1", ttl_ms=1000))


@given(
    st.lists(ANY_ENTRY, max_size=12), st.lists(ANY_ENTRY, max_size=12), st.data(), st.integers(min_value=1, max_value=5)
)
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_replicas_agree_whatever_writers_race_and_whatever_is_delivered_twice(
    left: list[Entry], right: list[Entry], data: st.DataObject, batch: int
) -> None:
    """Two writers interleave and re-send; a replica that follows all along, one that comes late and the plain fold of
    the log's order hold the same state and history."""
    left, right, order = list(left), list(right), []
    while left or right:
        order.append((left if left and (not right or data.draw(st.booleans())) else right).pop(0))
        if data.draw(st.integers(0, 4)) == 0:
            order.append(data.draw(st.sampled_from(order)))
    log = MemoryLog()
    following, late = PolicyJournal(log), PolicyJournal(log)
    for start in range(0, len(order), batch):
        log.append([encode_event(item) for item in order[start : start + batch]])
        following.refresh()
    late.refresh()
    for name in ("support", "sales"):
        expected = PolicyFold(name)
        for item in order:
            expected.take(item)
        assert following.state(name) == late.state(name) == expected.state
        assert following.history(name) == late.history(name)
        outcomes = {line.outcome.entry_id: line.outcome for line in late.history(name)}
        assert outcomes == expected.outcomes
