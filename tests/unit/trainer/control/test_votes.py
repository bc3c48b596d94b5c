"""Which feedback is a vote between canary and stable, and for whom."""

from __future__ import annotations

import pytest

from schemas.feedback import FeedbackReceived, FeedbackSource
from tests.factories import START, Maker
from trainer.release.votes import canary_votes

CANARY, STABLE = 2, 1


def verdicts(words: list[FeedbackReceived], since: int = 0) -> list[str]:
    found = canary_votes(words, canary=CANARY, stable=STABLE, since_ms=START + since)
    return sorted(vote.verdict for vote in found)


@pytest.mark.parametrize(("winner", "verdict"), [(0, "loss"), (1, "win"), ("tie", "tie"), ("both_bad", "tie")])
def test_the_winners_version_decides_whatever_place_it_was_shown_in(winner: int | str, verdict: str) -> None:
    make = Maker()
    shown = [make.completion(version=STABLE), make.completion(version=CANARY)]
    assert verdicts([make.comparison(shown, winner)]) == [verdict]
    if isinstance(winner, int):
        assert verdicts([make.comparison(shown[::-1], 1 - winner)]) == [verdict]


def test_one_vote_for_each_person_and_comparison_the_latest() -> None:
    make = Maker()
    shown = [make.completion(version=STABLE), make.completion(version=CANARY)]
    words = [make.comparison(shown, 1, 1_000), make.comparison(shown, 0, 2_000), make.comparison(shown, 1, user="bob")]
    assert verdicts(words) == ["loss", "win"]
    assert verdicts([*words, make.retraction(words[1], 3_000)]) == ["win"]


def test_only_people_who_saw_both_and_nothing_else_vote() -> None:
    make = Maker()
    old, new, other = (make.completion(version=version) for version in (STABLE, CANARY, 7))
    assert verdicts([make.comparison([old, old], 0)]) == []
    assert verdicts([make.comparison([old, new, other], 1)]) == []
    assert verdicts([make.thumb(new)]) == []
    assert verdicts([make.comparison([old, new], 1, source=FeedbackSource.AI)]) == []
    assert verdicts([make.comparison([old, new], 1, source=FeedbackSource.RATER)]) == ["win"]
    assert verdicts([make.comparison([old, old, new], 2)]) == ["win"]


def test_votes_from_before_the_canary_began_do_not_count() -> None:
    make = Maker()
    shown = [make.completion(version=STABLE), make.completion(version=CANARY)]
    assert verdicts([make.comparison(shown, 1, 1_000)], since=1_001) == []


def test_a_winner_that_was_not_shown_is_no_vote() -> None:
    make = Maker()
    shown = [make.completion(version=STABLE), make.completion(version=CANARY)]
    assert verdicts([make.comparison(shown, 5)]) == []
