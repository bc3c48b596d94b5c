"""What the reward model's batches hold together, and what a word weighs in its loss."""

from __future__ import annotations

import itertools

import pytest
import torch

from trainer.algorithms.preference import ranking_pairs
from trainer.data import PreferencePair, RatedAnswer, ThumbedAnswer
from trainer.learn.config import RewardConfig
from trainer.learn.examples import liked_examples
from trainer.learn.reward_units import Share, Unit, pair_index, units_of
from trainer.models.batching import groups

PROMPT = (1, 2)
ANSWERS = [(3,), (4, 4), (5, 5, 5), (6,)]


def _ranking(name: str = "r") -> list[PreferencePair]:
    return [
        PreferencePair(
            PROMPT, ANSWERS[pair.chosen], ANSWERS[pair.rejected], pair.tie, pair.weight, "u", "ranking", name
        )
        for pair in ranking_pairs([1, 2, 3, 4])
    ]


def test_a_ranking_of_four_weighs_as_much_as_a_lone_pair() -> None:
    lone = PreferencePair((9,), (7,), (8,), False, 1.0, "u", "comparison", "c")
    ranking, pair = units_of([*_ranking(), lone], [])
    assert [sum(weight for *_, weight in unit.pairs) for unit in (ranking, pair)] == pytest.approx([1.0, 1.0])
    assert len(ranking.pairs) == 6
    # Two words of weight 1, four steps an epoch: each unit of weight is half of the loss.
    assert Share.of([ranking, pair], 4, RewardConfig()).pairs == pytest.approx(2.0)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("budget", [1, 8, 1000])
def test_a_ranking_s_pairs_stay_in_one_batch_over_its_distinct_answers(budget: int, packed: bool) -> None:
    units = units_of([*_ranking("a"), *_ranking("b")], [ThumbedAnswer(PROMPT, (3,), True, "user", 1.0, "v")])
    grouped = groups([unit.answers for unit in units], budget, packed=packed)
    batches = [[units[place] for place in places] for places in grouped]
    assert sorted(len(unit.answers) for batch in batches for unit in batch) == [1, 4, 4]
    assert sum(len(pair_index(batch, torch.device("cpu"))[0]) for batch in batches) == 12
    for batch in batches:
        answers = [answer for unit in batch for answer in unit.answers]
        chosen, rejected, _, _ = pair_index(batch, torch.device("cpu"))
        found = [(answers[i][1], answers[j][1]) for i, j in zip(chosen.tolist(), rejected.tolist(), strict=True)]
        whole = list(itertools.combinations(ANSWERS, 2))
        assert found == whole * sum(len(unit.answers) == 4 for unit in batch)


def test_thumbs_and_ratings_share_one_mean() -> None:
    thumbs = [ThumbedAnswer(PROMPT, (3,), True, "user", 2.0, "v")]
    ratings = [RatedAnswer(PROMPT, (4,), stars, "user", 1.0, "w") for stars in (3, 5)]
    share = Share.of(units_of([], thumbs, ratings), 1, RewardConfig(thumbs_coefficient=0.5))
    assert share.verdicts == pytest.approx(0.5 / 4)
    assert share.ratings_of == {"w": 2}
    assert Share.of(units_of([], thumbs), 1, RewardConfig(thumbs_coefficient=0.5)).verdicts == pytest.approx(0.25)


def test_a_correction_is_a_pair_for_the_reward_model_and_a_demonstration_for_sft() -> None:
    edited = PreferencePair(PROMPT, (7, 7), (3,), False, 1.0, "u", "correction", "fb")
    assert units_of([edited], []) == [Unit(((PROMPT, (7, 7)), (PROMPT, (3,))), ((0, 1, False, 1.0),), None, "u")]
    assert [example.answers for example in liked_examples([edited], [])] == [((PROMPT, (7, 7)),)]
