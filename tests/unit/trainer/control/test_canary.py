"""What happens to published versions between turns, on a journal in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from schemas.base import new_id, now_ms
from schemas.journal import VersionPromoted
from schemas.lifecycle import Stage
from tests.unit.trainer.control.house import POLICY, House, candidate, open_house
from tests.unit.trainer.control.test_promotion import votes
from trainer.release.canary import CanaryWatch
from trainer.release.promotion import CanaryVote, PromotionSettings


@dataclass
class Urn:
    """Votes by hand."""

    cast: list[CanaryVote] = field(default_factory=list)
    asked: list[tuple[int, int, int]] = field(default_factory=list)

    def votes(self, *, canary: int, stable: int, since_ms: int) -> Sequence[CanaryVote]:
        self.asked.append((canary, stable, since_ms))
        return self.cast


def watch(house: House, urn: Urn, own: int | None = None) -> CanaryWatch:
    settings = PromotionSettings(min_votes=10, min_margin=0.2, max_votes=40)
    return CanaryWatch(house.journal, house.publisher, urn, settings, lambda: own)


def publish(house: House, folder: Path, weights: bytes = b"w") -> int:
    version = house.publisher.reserve(house.journal.state(POLICY).stable)
    parent = house.journal.state(POLICY).stable
    house.publisher.publish(version, candidate(folder, parent=parent, weights=weights), folder)
    return version


def test_votes_hold_then_promote_and_the_journal_says_why(tmp_path: Path) -> None:
    urn = Urn(votes(5, 4))
    with open_house() as house:
        publish(house, tmp_path)
        held = watch(house, urn).settle()
        assert (held.changed, held.free) == (False, False)
        assert held.message == "support@v1 is the canary: 5 of 9 blinded votes; 10 are needed"
        urn.cast = votes(8, 2)
        done = watch(house, urn).settle()
        assert (done.changed, done.free) == (True, True)
        state = house.journal.state(POLICY)
        assert (state.stable, state.canary) == (1, None)
        assert state.versions[1].reason.startswith("8 of 10 blinded votes")
        assert urn.asked[-1][:2] == (1, 0)


def test_a_losing_canary_is_taken_back_and_the_stable_version_stays(tmp_path: Path) -> None:
    with open_house() as house:
        publish(house, tmp_path)
        assert watch(house, Urn(votes(2, 8))).settle().free
        state = house.journal.state(POLICY)
        assert (state.stable, state.canary) == (0, None)
        assert state.versions[1].stage is Stage.ROLLED_BACK
        assert "people prefer the stable version" in state.versions[1].reason


def test_an_operator_who_was_faster_wins(tmp_path: Path) -> None:
    with open_house() as house:
        publish(house, tmp_path)

        class Racing(Urn):
            def votes(self, *, canary: int, stable: int, since_ms: int) -> Sequence[CanaryVote]:
                promoted = VersionPromoted(id=new_id("je"), at=now_ms(), policy=POLICY, actor="op", version=canary)
                house.journal.propose(promoted)
                return votes(2, 8)

        settled = watch(house, Racing()).settle()
        assert (settled.changed, settled.free) == (False, False)
        assert "came too late" in settled.message
        assert house.journal.state(POLICY).stable == 1
        assert watch(house, Urn()).settle().free


def test_a_waiting_candidate_becomes_canary_when_its_parent_still_serves(tmp_path: Path) -> None:
    with open_house() as house:
        publish(house, tmp_path / "1")
        publish(house, tmp_path / "2", b"other")
        watch(house, Urn(votes(2, 8))).settle()
        settled = watch(house, Urn()).settle()
        assert (settled.changed, settled.free) == (True, False)
        assert house.journal.state(POLICY).canary == 2


def test_a_waiting_candidate_of_a_version_that_no_longer_serves_is_rejected(tmp_path: Path) -> None:
    with open_house() as house:
        publish(house, tmp_path / "1")
        publish(house, tmp_path / "2", b"other")
        watch(house, Urn(votes(8, 2))).settle()
        assert "its parent support@v0 is not stable any more" in watch(house, Urn()).settle().message
        assert house.journal.state(POLICY).versions[2].stage is Stage.REJECTED


def test_numbers_that_nobody_will_fill_are_rejected_but_the_turns_own_is_kept() -> None:
    with open_house() as house:
        left, own = house.publisher.reserve(0), house.publisher.reserve(0)
        assert watch(house, Urn(), own).settle().free
        state = house.journal.state(POLICY)
        assert state.versions[left].stage is Stage.REJECTED
        assert state.versions[own].stage is Stage.RESERVED
