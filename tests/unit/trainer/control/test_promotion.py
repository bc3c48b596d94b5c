"""The promotion rule: hand-worked cases and properties."""

from __future__ import annotations

from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from trainer.release.promotion import CanaryVote, PromotionSettings, decide, tally

SETTINGS = PromotionSettings(min_votes=10, min_margin=0.2, max_votes=40)


def votes(wins: int, losses: int, ties: int = 0) -> list[CanaryVote]:
    verdicts: list[Literal["win", "loss", "tie"]] = ["win"] * wins + ["loss"] * losses + ["tie"] * ties  # type: ignore[list-item]
    return [CanaryVote(f"user-{n}", f"cmp-{n}", n, verdict) for n, verdict in enumerate(verdicts)]


@pytest.mark.parametrize(
    ("wins", "losses", "ties", "action"),
    [
        (9, 0, 50, "hold"),  # ties decide nothing
        (6, 4, 0, "promote"),  # margin exactly 20 %
        (7, 5, 0, "hold"),  # 16.7 %
        (5, 5, 0, "hold"),
        (4, 6, 0, "reject"),
        (20, 20, 0, "reject"),  # max votes without a winner
        (24, 16, 0, "promote"),  # max votes with one
    ],
)
def test_hand_worked_cases(wins: int, losses: int, ties: int, action: str) -> None:
    assert decide(votes(wins, losses, ties), SETTINGS).action == action


def test_the_reason_is_in_words() -> None:
    assert decide(votes(41, 19, 3), SETTINGS).reason.startswith("41 of 60 blinded votes, 3 ties (margin +37%")
    assert decide(votes(1, 0), SETTINGS).reason == "1 of 1 blinded votes; 10 are needed"


def test_significance_can_be_required() -> None:
    strict = SETTINGS.model_copy(update={"require_significance": True})
    # 6 of 10 at 90 %: interval from 0.354; 9 of 10: from 0.652.
    assert decide(votes(6, 4), strict).action == "hold"
    assert decide(votes(9, 1), strict).action == "promote"


def test_the_latest_vote_of_a_person_on_a_comparison_counts_once() -> None:
    changed = [
        CanaryVote("ann", "cmp-1", 1, "win"),
        CanaryVote("ann", "cmp-1", 2, "loss"),
        CanaryVote("ann", "cmp-2", 1, "win"),
        CanaryVote("bob", "cmp-1", 1, "win"),
    ]
    counted = tally(changed)
    assert (counted.wins, counted.losses, counted.ties) == (2, 1, 0)


def test_settings_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ValidationError, match="max_votes"):
        PromotionSettings(min_votes=50, max_votes=40)


VOTES = st.lists(
    st.builds(
        CanaryVote,
        speaker=st.sampled_from("abcde"),
        comparison_id=st.sampled_from(["c1", "c2", "c3", "c4"]),
        at=st.integers(0, 3),
        verdict=st.sampled_from(["win", "loss", "tie"]),
    ),
    max_size=60,
)


@given(VOTES, st.randoms(use_true_random=False))
def test_order_and_redelivery_change_nothing(given_votes: list[CanaryVote], random: object) -> None:
    shuffled = [*given_votes, *given_votes]
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert decide(shuffled, SETTINGS) == decide(given_votes, SETTINGS)


@given(st.integers(0, 80), st.integers(0, 80))
def test_a_winner_is_never_rejected_before_the_end_nor_a_loser_promoted(wins: int, losses: int) -> None:
    action = decide(votes(wins, losses), SETTINGS).action
    if action == "promote":
        assert wins > losses
    if action == "reject":
        assert losses > wins or wins + losses >= SETTINGS.max_votes
    if wins + losses < SETTINGS.min_votes:
        assert action == "hold"


@given(st.integers(0, 39), st.integers(0, 39))
def test_sides_are_treated_alike_before_the_end(wins: int, losses: int) -> None:
    if wins + losses >= SETTINGS.max_votes:
        return
    mirrored = {"promote": "reject", "reject": "promote", "hold": "hold"}
    assert decide(votes(losses, wins), SETTINGS).action == mirrored[decide(votes(wins, losses), SETTINGS).action]
