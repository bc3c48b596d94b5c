"""Publishing on a journal and registry in memory: the order of entries, rejection, races and repeats after a crash."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from exchange.log.memory import MemoryLog
from schemas.base import new_id, now_ms
from schemas.errors import NotFound
from schemas.journal import VersionPromoted, VersionRejected
from schemas.lifecycle import Stage
from schemas.reports import Curves
from tests.unit.trainer.control.house import POLICY, House, candidate, open_house
from trainer.release.lease import LeaseLost
from trainer.release.publish import ParentMoved

CURVES = Curves.of([{"loss": 0.5}])


def entries(house: House) -> list[tuple[str, bool]]:
    lines = [line for line in house.journal.history(POLICY) if line.entry.entry != "lease_acquired"]
    return [(line.entry.entry, line.outcome.applied) for line in lines]


def promote(house: House, version: int) -> None:
    house.journal.propose(
        VersionPromoted(id=new_id("je"), at=now_ms(), policy=POLICY, actor="operator", version=version)
    )


def test_a_candidate_that_passed_becomes_canary_with_its_whole_manifest(tmp_path: Path) -> None:
    with open_house() as house:
        version = house.publisher.reserve(0)
        made = replace(candidate(tmp_path), curves=CURVES)
        published = house.publisher.publish(version, made, tmp_path)
        assert (published.version, published.passed, published.canary) == (1, True, True)
        assert entries(house) == [("version_reserved", True), ("candidate_published", True), ("canary_started", True)]
        state = house.journal.state(POLICY)
        assert (state.canary, state.canary_share, state.stable) == (1, 0.25, 0)
        manifest = house.registry.adapter(POLICY, 1)
        assert manifest.digest == state.versions[1].digest
        assert set(manifest.files) == {"adapter_model.safetensors", "adapter_config.json"}
        assert manifest.gates.passed
        assert (manifest.parent, manifest.snapshot, manifest.reward_model) == (0, "d" * 64, "e" * 64)
        assert manifest.probes[0].logprobs == (-0.5,)
        assert state.versions[1].kl_nats_per_sequence == 1.5
        assert manifest.report is not None
        report = house.registry.fetch_artifact("reports", manifest.report, tmp_path / "cache")
        assert Curves.model_validate_json((report / "curves.json").read_bytes()) == CURVES


def test_a_candidate_that_failed_keeps_its_number_and_report_but_its_adapter_goes_nowhere(tmp_path: Path) -> None:
    with open_house() as house:
        version = house.publisher.reserve(0)
        published = house.publisher.publish(version, candidate(tmp_path, passed=False), tmp_path)
        assert not published.passed
        state = house.journal.state(POLICY)
        assert state.versions[1].stage is Stage.REJECTED
        assert state.versions[1].reason == "gates: KL of 9 nats is over the budget of 6."
        assert state.canary is None
        with pytest.raises(NotFound):
            house.registry.adapter(POLICY, 1)
        folder = house.registry.fetch_artifact("reports", published.report, tmp_path / "cache")
        report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
        assert report["gates"]["results"][0]["passed"] is False
        assert house.publisher.reserve(0) == 2


def test_publishing_again_after_a_crash_changes_nothing(tmp_path: Path) -> None:
    with open_house() as house:
        version = house.publisher.reserve(0)
        made = candidate(tmp_path)
        house.publisher.publish(version, made, tmp_path)
        before = house.journal.state(POLICY)
        house.publisher.publish(version, made, tmp_path)
        after = house.journal.state(POLICY)
        assert after.versions == before.versions
        assert after.generation == before.generation


def test_a_moved_parent_publishes_nothing(tmp_path: Path) -> None:
    with open_house() as house:
        house.publisher.publish(house.publisher.reserve(0), candidate(tmp_path / "1"), tmp_path / "1")
        second = house.publisher.reserve(0)
        promote(house, 1)
        with pytest.raises(ParentMoved, match=r"support@v1 now, not support@v0"):
            house.publisher.publish(second, candidate(tmp_path / "2"), tmp_path / "2")
        assert house.journal.state(POLICY).versions[second].stage is Stage.RESERVED
        with pytest.raises(ParentMoved):
            house.publisher.reserve(0)


def test_a_second_canary_waits_as_candidate(tmp_path: Path) -> None:
    with open_house() as house:
        house.publisher.publish(house.publisher.reserve(0), candidate(tmp_path / "1"), tmp_path / "1")
        second = house.publisher.reserve(0)
        published = house.publisher.publish(second, candidate(tmp_path / "2", weights=b"other"), tmp_path / "2")
        assert (published.passed, published.canary) == (True, False)
        assert house.journal.state(POLICY).versions[2].stage is Stage.CANDIDATE


def test_an_operators_entry_in_between_is_met_by_another_try(tmp_path: Path) -> None:
    with open_house() as house:
        first = house.publisher.reserve(0)
        second = house.publisher.reserve(0)
        # Raises the generation after the trainer looked, on every first try of an announcement.
        propose = house.journal.propose
        tried: list[str] = []

        def race(entry: object) -> object:
            if type(entry).__name__ == "CandidatePublished" and not tried:
                tried.append("raced")
                propose(VersionRejected(id=new_id("je"), at=now_ms(), policy=POLICY, actor="operator", version=first))
            return propose(entry)  # type: ignore[arg-type]

        house.journal.propose = race  # type: ignore[method-assign, assignment]
        published = house.publisher.publish(second, candidate(tmp_path), tmp_path)
        assert published.canary
        assert ("candidate_published", False) in entries(house)
        assert ("candidate_published", True) in entries(house)


def test_a_trainer_that_lost_its_lease_announces_nothing(tmp_path: Path) -> None:
    log = MemoryLog()
    with open_house("trainer-a", log) as first, open_house("trainer-b", log) as second:
        version = first.publisher.reserve(0)
        first.lease.close()
        second.lease.renew()
        with pytest.raises(LeaseLost):
            first.publisher.publish(version, candidate(tmp_path), tmp_path)
        second.journal.refresh()
        assert second.journal.state(POLICY).versions[version].stage is Stage.RESERVED


def test_two_trainers_never_get_one_number() -> None:
    log = MemoryLog()
    with open_house("trainer-a", log) as first, open_house("trainer-b", log) as second:
        numbers = [first.publisher.reserve(0)]
        with pytest.raises(LeaseLost):
            second.publisher.reserve(0)
        first.lease.close()
        numbers.append(second.publisher.reserve(0))
        assert numbers == [1, 2]
