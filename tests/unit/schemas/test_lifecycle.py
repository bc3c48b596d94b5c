"""The policy lifecycle: hand cases for each rule, and properties of the fold for any journal whatever."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.journal import (
    CanaryStarted,
    CandidatePublished,
    Entry,
    LeaseAcquired,
    LeaseReleased,
    VersionPromoted,
    VersionRejected,
    VersionReserved,
    VersionRolledBack,
)
from schemas.lifecycle import TRANSITIONS, PolicyFold, PolicyState, Stage, fold, initial_state

SHA = "ab" * 32
_count = iter(range(10**9))


def entry(model: type, at: int = 0, **fields: Any) -> Entry:
    made: Entry = model(id=f"e{next(_count)}", at=at, policy="support", actor="test", **fields)
    return made


def run(*entries: Entry, state: PolicyState | None = None) -> PolicyState:
    """The state after new entries of the policy."""
    state = state or initial_state("support")
    for item in entries:
        state, _ = fold(state, item)
    return state


def folded(*entries: Entry) -> PolicyFold:
    """A journal in which anything may lie, folded."""
    journal = PolicyFold("support")
    for item in entries:
        journal.take(item)
    return journal


def published(count: int) -> PolicyState:
    """A policy with `count` candidates v1..vN under a lease of epoch 1."""
    state = run(entry(LeaseAcquired, holder="t1", ttl_ms=1000))
    for number in range(1, count + 1):
        state = run(
            entry(VersionReserved, epoch=1, version=number),
            entry(CandidatePublished, epoch=1, version=number, digest=SHA, parent=0, kl_nats_per_sequence=0.5),
            state=state,
        )
    return state


def refused(state: PolicyState, item: Entry) -> str:
    after, outcome = fold(state, item)
    assert not outcome.applied
    assert after == state
    return outcome.reason


def test_the_base_serves_from_the_start() -> None:
    state = initial_state("support")
    assert (state.stable, state.servable(), state.next_version, state.generation) == (0, (0,), 1, 0)


def test_the_whole_life_of_two_versions() -> None:
    state = run(entry(CanaryStarted, version=1, share=0.2), state=published(2))
    assert (state.stable, state.canary, state.canary_share) == (0, 1, 0.2)
    state = run(entry(VersionPromoted, version=1), state=state)
    assert (state.stable, state.canary, state.previous_stable) == (1, None, (0,))
    assert state.versions[0].stage is Stage.RETIRED
    state = run(entry(VersionPromoted, version=2), state=state)
    assert (state.stable, state.previous_stable) == (2, (0, 1))
    state = run(entry(VersionRolledBack, version=2), state=state)
    assert (state.stable, state.previous_stable) == (1, (0,))
    assert state.versions[2].stage is Stage.ROLLED_BACK
    state = run(entry(VersionRolledBack, version=1), state=state)
    assert state.stable == 0
    assert "no version before support@v0" in refused(state, entry(VersionRolledBack, version=0))
    # What was taken back may be tried again by hand.
    assert run(entry(VersionPromoted, version=1), state=state).stable == 1


def test_rolling_back_to_a_named_version() -> None:
    state = run(*(entry(VersionPromoted, version=number) for number in (1, 2, 3)), state=published(4))
    state = run(entry(VersionRolledBack, version=3, to=1), state=state)
    assert (state.stable, state.previous_stable) == (1, (0, 2))
    assert "never was stable" in refused(state, entry(VersionRolledBack, version=1, to=4))
    assert "does not exist" in refused(state, entry(VersionRolledBack, version=1, to=9))


def test_rolling_back_a_canary_leaves_the_stable_version() -> None:
    state = run(entry(CanaryStarted, version=1, share=0.5), entry(VersionRolledBack, version=1), state=published(1))
    assert (state.stable, state.canary, state.canary_share) == (0, None, 0.0)
    assert state.versions[1].stage is Stage.ROLLED_BACK


def test_one_canary_at_a_time() -> None:
    state = run(entry(CanaryStarted, version=1, share=0.5), state=published(2))
    assert "already the canary" in refused(state, entry(CanaryStarted, version=2, share=0.5))


def test_a_rejected_version_stays_rejected() -> None:
    state = run(entry(VersionRejected, version=1), state=published(1))
    for item in (entry(VersionPromoted, version=1), entry(CanaryStarted, version=1, share=0.1)):
        assert "rejected" in refused(state, item)
    assert state.servable() == (0,)


def test_a_stale_writer_is_refused() -> None:
    state = published(1)
    assert state.generation == 2
    assert "stale" in refused(state, entry(VersionPromoted, version=1, expected_generation=1))
    assert run(entry(VersionPromoted, version=1, expected_generation=2), state=state).stable == 1


def test_two_trainers_cannot_both_make_a_version() -> None:
    state = run(entry(LeaseAcquired, at=0, holder="t1", ttl_ms=1000))
    assert "held by t1" in refused(state, entry(LeaseAcquired, at=999, holder="t2", ttl_ms=1000))
    state = run(entry(LeaseAcquired, at=1000, holder="t2", ttl_ms=1000), state=state)
    assert (state.lease.holder, state.lease.epoch) == ("t2", 2)
    assert "epoch 1 does not hold" in refused(state, entry(VersionReserved, epoch=1, version=1))
    state = run(entry(VersionReserved, epoch=2, version=1), state=state)
    assert "next version is 2" in refused(state, entry(VersionReserved, epoch=2, version=1))
    late = entry(CandidatePublished, epoch=1, version=1, digest=SHA, parent=0, kl_nats_per_sequence=0)
    assert "epoch 1" in refused(state, late)


def test_a_released_lease_is_free_at_once_and_fences_its_old_epoch() -> None:
    state = run(entry(LeaseAcquired, holder="t1", ttl_ms=10**6), entry(LeaseReleased, epoch=1))
    assert "does not hold" in refused(state, entry(VersionReserved, epoch=1, version=1))
    assert run(entry(LeaseAcquired, at=1, holder="t2", ttl_ms=1), state=state).lease.epoch == 2


def test_entries_of_another_policy_leave_no_trace() -> None:
    other = VersionPromoted(id="x", at=0, policy="sales", actor="test", version=1)
    journal = PolicyFold("support")
    assert journal.take(other) is None
    assert (journal.state, journal.outcomes) == (initial_state("support"), {})


@pytest.mark.parametrize("kind", sorted(TRANSITIONS))
def test_the_table_names_only_stages_that_can_be_left(kind: str) -> None:
    sources, target = TRANSITIONS[kind]
    assert Stage.REJECTED not in sources
    assert target not in sources


_numbers = st.integers(0, 4)
_epochs = st.integers(1, 3)
_generation = st.none() | st.integers(0, 6)


def _any(model: type, **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Entry]:
    return st.builds(
        model,
        id=st.text("abcdef", min_size=1, max_size=2),  # few ids, so that redeliveries and clashes happen
        at=st.integers(0, 50),
        policy=st.sampled_from(["support", "support", "support", "sales"]),
        actor=st.just("test"),
        expected_generation=_generation,
        **fields,
    )


ANY_ENTRY: st.SearchStrategy[Entry] = st.one_of(
    _any(LeaseAcquired, holder=st.sampled_from(["t1", "t2"]), ttl_ms=st.integers(1, 30)),
    _any(LeaseReleased, epoch=_epochs),
    _any(VersionReserved, epoch=_epochs, version=_numbers),
    _any(
        CandidatePublished,
        epoch=_epochs,
        version=_numbers,
        digest=st.just(SHA),
        parent=_numbers,
        kl_nats_per_sequence=st.just(1.0),
    ),
    _any(CanaryStarted, version=_numbers, share=st.just(0.5)),
    _any(VersionPromoted, version=_numbers),
    _any(VersionRejected, version=_numbers),
    _any(VersionRolledBack, version=_numbers, to=st.none() | _numbers),
)


@given(st.lists(ANY_ENTRY, max_size=40))
@settings(max_examples=300, deadline=None)
def test_any_journal_folds_to_a_sound_state(entries: list[Entry]) -> None:
    journal = PolicyFold("support")
    reserved: list[int] = []
    for item in entries:
        before = journal.state
        outcome = journal.take(item)
        state = journal.state
        if outcome is not None and outcome.applied and isinstance(item, VersionReserved):
            reserved.append(item.version)
        stages = [version.stage for version in state.versions.values()]
        assert stages.count(Stage.STABLE) == 1
        assert state.versions[state.stable].stage is Stage.STABLE
        assert stages.count(Stage.CANARY) == (state.canary is not None)
        assert state.canary is None or state.versions[state.canary].stage is Stage.CANARY
        assert before.generation <= state.generation <= before.generation + 1
        assert state.lease.epoch >= before.lease.epoch
        assert all(state.versions[n].stage is Stage.RETIRED for n in state.previous_stable)
    assert len(set(reserved)) == len(reserved)


@given(st.lists(ANY_ENTRY, max_size=30), st.data())
@settings(max_examples=200, deadline=None)
def test_redelivery_changes_nothing(entries: list[Entry], data: st.DataObject) -> None:
    redelivered: list[Entry] = []
    for index, item in enumerate(entries):
        redelivered.append(item)
        if index and data.draw(st.booleans()):
            redelivered.append(entries[data.draw(st.integers(0, index))])
    once, twice = folded(*entries), folded(*redelivered)
    assert (once.state, once.outcomes) == (twice.state, twice.outcomes)


@given(st.lists(ANY_ENTRY, max_size=15), st.lists(ANY_ENTRY, max_size=15), st.randoms(use_true_random=False))
@settings(max_examples=200, deadline=None)
def test_replicas_agree_however_racing_writers_interleave(left: list[Entry], right: list[Entry], rng: Any) -> None:
    """The log fixes one order; replicas that read it in batches of any size hold the same state."""
    left, right, journal = list(left), list(right), []
    while left or right:
        journal.append((left if left and (not right or rng.random() < 0.5) else right).pop(0))
    cut = rng.randint(0, len(journal))
    one, two = folded(*journal), folded(*journal[:cut])
    two.state = PolicyState.model_validate_json(two.state.model_dump_json())
    for item in journal[cut:]:
        two.take(item)
    assert (one.state, one.outcomes) == (two.state, two.outcomes)
