"""DPO, KTO and what they learn from, on numbers worked by hand."""

from __future__ import annotations

import math

import pytest
import torch

from trainer.algorithms.dpo import dpo_losses, implied_margins
from trainer.algorithms.kto import class_weights, kto_losses, reference_point
from trainer.algorithms.sequences import answer_log_probs
from trainer.data import PreferencePair, ThumbedAnswer
from trainer.learn.examples import dpo_examples, kto_examples, liked_examples


def test_an_answer_s_logprob_is_the_sum_over_its_tokens_and_nothing_else() -> None:
    log_p = torch.tensor([[-1.0, -2.0, float("nan")], [-0.5, 1e30, -9.0]])
    mask = torch.tensor([[True, True, False], [True, False, False]])
    assert answer_log_probs(log_p, mask).tolist() == [-3.0, -0.5]


def test_dpo_by_hand() -> None:
    margins = implied_margins(torch.tensor([2.0, 0.0, -1.0]), torch.tensor([-1.0, 0.0, 1.0]))
    assert margins.tolist() == [3.0, 0.0, -2.0]
    # sigmoid(0.5 x 3) = 0.81757, sigmoid(0) = 0.5, sigmoid(-1) = 0.26894
    expected = [-math.log(0.817574), math.log(2), -math.log(0.268941)]
    assert dpo_losses(margins, beta=0.5).tolist() == pytest.approx(expected, abs=1e-5)


def test_kto_by_hand() -> None:
    ratios, liked = torch.tensor([3.0, 3.0, 1.0]), torch.tensor([True, False, True])
    # gains over a reference point of 1: 2, -2, 0; times beta 0.5, through 1 - sigmoid
    expected = [0.268941, 0.731059, 0.5]
    assert kto_losses(ratios, liked, torch.tensor(1.0), beta=0.5).tolist() == pytest.approx(expected, abs=1e-5)


def test_the_reference_point_is_a_mean_that_is_never_negative_and_carries_no_gradient() -> None:
    ratios = torch.tensor([0.5, 1.5], requires_grad=True)
    assert reference_point(ratios).item() == 1.0
    assert reference_point(ratios - 3).item() == 0.0
    assert not reference_point(ratios).requires_grad


@pytest.mark.parametrize(
    ("liked", "disliked", "ratio", "expected"),
    [(3.0, 1.0, 1.0, (2 / 3, 2.0)), (3.0, 1.0, 3.0, (1.0, 1.0)), (5.0, 0.0, 1.0, (1.0, 1.0))],
    ids=["balanced", "as they are", "one kind"],
)
def test_class_weights_keep_the_total(
    liked: float, disliked: float, ratio: float, expected: tuple[float, float]
) -> None:
    better, worse = class_weights(liked, disliked, ratio)
    assert (better, worse) == pytest.approx(expected)
    assert better * liked + worse * disliked == pytest.approx(liked + disliked)


def _pair(chosen: int, rejected: int, *, tie: bool = False, weight: float = 1.0) -> PreferencePair:
    return PreferencePair((1,), (chosen,), (rejected,), tie, weight, "u", "comparison", f"{chosen}>{rejected}")


def _thumb(answer: int, *, liked: bool, weight: float = 1.0) -> ThumbedAnswer:
    return ThumbedAnswer((1,), (answer,), liked, "user", weight, "u")


def test_dpo_learns_from_pairs_that_are_no_ties() -> None:
    (only,) = dpo_examples([_pair(5, 6, weight=0.3), _pair(7, 8, tie=True)])
    assert only.answers == (((1,), (5,)), ((1,), (6,)))
    assert (only.weight, only.tokens) == (0.3, 4)


def test_kto_learns_from_thumbs_and_from_both_sides_of_a_pair_balanced() -> None:
    found = kto_examples([_pair(5, 6, weight=0.5)], [_thumb(7, liked=True, weight=1.5)], liked_ratio=1.0)
    assert [(item.answers[0][1], item.liked) for item in found] == [((7,), True), ((5,), True), ((6,), False)]
    # liked weigh 2, disliked 0.5: each kind shall have half of 2.5
    assert [item.weight for item in found] == pytest.approx([1.5 * 0.625, 0.5 * 0.625, 0.5 * 2.5])


def test_sft_imitates_what_was_liked_or_chosen_once_with_the_sum_of_its_weights() -> None:
    pairs = [_pair(5, 6, weight=0.25), _pair(5, 7, weight=0.25), _pair(8, 9, tie=True)]
    thumbs = [_thumb(5, liked=True), _thumb(6, liked=False), _thumb(10, liked=True, weight=2.0)]
    found = {item.answers[0][1]: item.weight for item in liked_examples(pairs, thumbs)}
    assert found == {(5,): 1.5, (10,): 2.0}
