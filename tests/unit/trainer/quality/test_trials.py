"""What a vote is held against, in order: gold, the same from others, a prediction made without its speaker."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch

from tests.unit.trainer.quality.crowds import Crowd, honest, key, turned
from trainer.quality.predictions import FOLDS, fold_of, margins
from trainer.quality.trials import Trial, trials_of
from trainer.quality.votes import Vote, votes_of

A, B = key(1), key(2)


def thumb(rater: str, up: bool, answer: int = 1, at: int = 0) -> Vote:
    return Vote(f"{rater}/{answer}/{at}", rater, at, key(answer), liked=up)


def kinds(found: list[Trial]) -> list[tuple[str, str, bool]]:
    return [(trial.vote.rater, trial.kind, trial.agrees) for trial in found]


def test_the_surest_that_there_is_decides() -> None:
    votes = [thumb("ann", True), thumb("bob", True), thumb("cid", False), thumb("dan", True, answer=2)]
    sure = math.log(0.8 / 0.2)
    assert kinds(trials_of(votes, [sure, sure, sure, -sure], {}, {})) == [
        # bob and cid tie about what ann said, so her prediction decides; of cid's, two say otherwise.
        ("ann", "predicted", True),
        ("bob", "predicted", True),
        ("cid", "shared", False),
        ("dan", "predicted", False),
    ]
    assert kinds(trials_of(votes, [None] * 4, {}, {})) == [("cid", "shared", False)]
    same = {A: "one", B: "one"}
    assert ("dan", "shared", True) in kinds(trials_of(votes, [None] * 4, same, {})), "equal answers are one"
    gold = trials_of(votes, [sure] * 4, same, {"one": False})
    assert kinds(gold) == [(who, "gold", who == "cid") for who in ("ann", "bob", "cid", "dan")]


def test_a_pair_is_gold_where_both_are_and_differ() -> None:
    right, wrong = Vote("x", "ann", 0, A, B), Vote("y", "bob", 0, B, A)
    sure = {A: True, B: False}
    assert kinds(trials_of([right, wrong], [None, None], {}, sure)) == [("ann", "gold", True), ("bob", "gold", False)]
    assert trials_of([right], [None], {}, {A: True, B: True}) == []
    assert trials_of([right], [math.log(0.54 / 0.46)], {}, {A: True}) == [], "nearer to even odds than 55 to 45"


def test_one_vote_for_each_word_of_people() -> None:
    label: dict[str, Any] = {"at": 5, "group": "ann", "source": "user", "tie": False, "number": 0}

    def pair(name: str, first: int, second: int, **more: Any) -> dict[str, Any]:
        ends = {"chosen_completion": f"c{first}", "chosen_choice": 0, "rejected_completion": f"c{second}"}
        return {**label, "feedback_id": name, "kind": "comparison", **ends, "rejected_choice": 0, **more}

    ranking = [("1", 1, 2, True), ("1", 1, 3, False), ("1", 2, 3, False)]
    pairs = [pair(name, first, second, tie=tie, kind="ranking") for name, first, second, tie in ranking]
    pairs += [pair("2", 1, 2, tie=True), pair("3", 1, 2, source="ai"), pair("4", 2, 1, at=3)]
    row = {**label, "completion_id": "c1", "choice": 0, "liked": False, "feedback_id": "5", "kind": "thumbs"}
    thumbs = [row, {**row, "feedback_id": "6", "kind": "comparison"}, {**row, "feedback_id": "7", "source": "implicit"}]
    found = votes_of({"thumbs.parquet": thumbs, "pairs.parquet": pairs})
    assert found == [
        Vote("4", "ann", 3, key(2), key(1)),
        Vote("1", "ann", 5, key(1), key(3)),
        Vote("5", "ann", 5, key(1), liked=False),
    ]


def test_nobody_has_a_say_in_what_is_predicted_of_them() -> None:
    """One person turns all their words round: what is predicted of their answers stays the same to the last bit."""
    people = Crowd(1, answers=200)
    people.come("honest", 20, 20, honest)
    rows = {key(place): place for place in range(200)}
    before = margins(people.votes, people.states, rows)
    loud = [replace(vote, other=vote.answer, answer=vote.other) if vote.other else vote for vote in people.votes]
    mine = [place for place, vote in enumerate(people.votes) if vote.rater == "honest-3" and vote.other]
    changed = [loud[place] if place in mine else vote for place, vote in enumerate(people.votes)]
    after = margins(changed, people.states, rows)
    for place in mine:
        assert before[place] is not None
        assert after[place] == -before[place]
    assert after != before


def test_predictions_find_what_people_like_without_them() -> None:
    people = Crowd(0, answers=400, own_taste=0.0)
    people.come("honest", 40, 30, honest)
    people.come("turned", 2, 30, turned)
    found = margins(people.votes, people.states, {key(place): place for place in range(400)})
    right: dict[bool, list[bool]] = {True: [], False: []}
    for vote, margin in zip(people.votes, found, strict=True):
        assert margin is not None
        right[vote.rater.startswith("honest")].append(margin > 0)
    assert sum(right[True]) / len(right[True]) > 0.68
    assert sum(right[False]) / len(right[False]) < 0.4


def test_wide_states_are_narrowed_and_few_people_predict_nothing() -> None:
    people = Crowd(0, answers=100)
    people.come("honest", 30, 10, honest)
    rows = {key(place): place for place in range(99)}
    wide = torch.cat([people.states, torch.randn(100, 500, generator=torch.Generator().manual_seed(1))], dim=1)
    found = margins(people.votes, wide, rows)
    missing = [key(99) in (vote.answer, vote.other) for vote in people.votes]
    assert [margin is None for margin in found] == missing
    assert any(missing)
    few = [vote for vote in people.votes if fold_of(vote.rater) < FOLDS - 1]
    assert margins(few, wide, rows) == [None] * len(few)
