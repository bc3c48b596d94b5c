"""The reward model's probe finds what can be found in closed form, and chooses its penalty on other voters."""

import math
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from trainer.learn.probe import Probe, ProbeWeights, fit_probe
from trainer.learn.probe_data import FOLDS, ProbeData, ProbeRatings

NO_CENTRING = ProbeWeights(thumbs=0.5, centring=0.0)


def _data(
    states: torch.Tensor,
    pairs: list[tuple[int, int, bool]] = [],  # noqa: B006
    thumbs: list[tuple[int, bool, int]] = [],  # noqa: B006
    voters: list[int] | None = None,
) -> ProbeData:
    pair_voters = torch.tensor((voters or [0] * len(pairs))[: len(pairs)], dtype=torch.int64)
    return ProbeData(
        states=states,
        chosen=torch.tensor([pair[0] for pair in pairs], dtype=torch.int64),
        rejected=torch.tensor([pair[1] for pair in pairs], dtype=torch.int64),
        ties=torch.tensor([pair[2] for pair in pairs], dtype=torch.bool),
        pair_weights=torch.ones(len(pairs)),
        pair_voters=pair_voters,
        thumbed=torch.tensor([thumb[0] for thumb in thumbs], dtype=torch.int64),
        liked=torch.tensor([thumb[1] for thumb in thumbs], dtype=torch.bool),
        thumb_weights=torch.ones(len(thumbs)),
        thumb_voters=torch.zeros(len(thumbs), dtype=torch.int64),
        cohorts=torch.tensor([thumb[2] for thumb in thumbs], dtype=torch.int64),
    )


def _fit(data: ProbeData, *penalties: float, cohorts: int = 1) -> Probe:
    return fit_probe(data, NO_CENTRING, penalties or (1e-9,), cohorts=cohorts, eta=0.5)


def test_the_margin_of_pairs_is_the_log_odds_of_winning() -> None:
    # Of two answers the first wins three times out of four: Bradley-Terry's margin is log 3.
    states = torch.tensor([[1.0], [-1.0]])
    probe = _fit(_data(states, [(0, 1, False)] * 3 + [(1, 0, False)]))
    scores = states @ probe.weight + probe.bias
    assert float(scores[0] - scores[1]) == pytest.approx(math.log(3), abs=1e-4)
    assert float(scores.mean()) == pytest.approx(0, abs=1e-6)


def test_the_tie_threshold_is_that_of_the_share_of_ties() -> None:
    # Even answers that tie half of the time: P(tie) = 1 - 2 sigmoid(-eta) = 1/2, so eta = log 3.
    states = torch.tensor([[1.0], [-1.0]])
    probe = _fit(_data(states, [(0, 1, False), (1, 0, False), (0, 1, True), (0, 1, True)]))
    assert math.exp(probe.log_eta) == pytest.approx(math.log(3), abs=1e-4)


def test_cohorts_differ_in_bias_where_the_answers_are_the_same() -> None:
    states = torch.tensor([[0.0], [0.0]])
    thumbs = [(0, True, 0)] * 3 + [(0, False, 0)] + [(1, True, 1)] + [(1, False, 1)] * 3
    probe = _fit(_data(states, thumbs=thumbs), cohorts=2)
    assert probe.biases.tolist() == pytest.approx([math.log(3), -math.log(3)], abs=1e-4)


def test_the_gradient_is_zero_where_it_ends() -> None:
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(40, 5, generator=generator)
    pairs = [(row, row + 1, row % 7 == 0) for row in range(0, 38, 2)]
    thumbs = [(row, row % 3 == 0, 0) for row in range(40)]
    data, penalty = _data(states, pairs, thumbs), 1e-2
    probe = _fit(data, penalty)

    def loss(weight: torch.Tensor) -> float:
        """A second, plain account of the same objective."""
        mean, deviation = states.double().mean(0), states.double().std(0, unbiased=False)
        scores = (states.double() - mean) @ weight
        eta, total = math.exp(probe.log_eta), 0.0
        for first, second, tie in pairs:
            win = 1 / (1 + math.exp(-(float(scores[first] - scores[second]) - eta)))
            lose = 1 / (1 + math.exp(-(float(scores[second] - scores[first]) - eta)))
            total -= math.log(1 - win - lose if tie else win) / len(pairs)
        for row, liked, _ in thumbs:
            up = 1 / (1 + math.exp(-(float(probe.scales[0]) * float(scores[row]) + float(probe.biases[0]))))
            total -= 0.5 * math.log(up if liked else 1 - up) / len(thumbs)
        return total + penalty * float(((weight * deviation) ** 2).sum())

    found = probe.weight.double()
    for place in range(5):
        step = torch.zeros(5, dtype=torch.float64)
        step[place] = 1e-4
        assert (loss(found + step) - loss(found - step)) / 2e-4 == pytest.approx(0, abs=1e-3)


def test_the_penalty_is_the_one_that_predicts_other_voters() -> None:
    # One feature tells, thirty are noise that each voter's few words could be explained by.
    generator = torch.Generator().manual_seed(1)
    states = torch.randn(400, 31, generator=generator)
    pairs = [
        (row, row + 1, False) if states[row, 0] > states[row + 1, 0] else (row + 1, row, False)
        for row in range(0, 400, 2)
    ]
    voters = [place % FOLDS for place in range(len(pairs))]
    assert _fit(_data(states, pairs, voters=voters), 1e-9, 1e-2, 1e3).penalty == 1e-2
    # Of a single voter nothing can be said: the safest.
    assert _fit(_data(states, pairs), 1e-9, 1e-2, 1e3).penalty == 1e3


def test_equal_data_give_equal_heads() -> None:
    states = torch.randn(30, 4, generator=torch.Generator().manual_seed(2))
    data = _data(states, [(row, row + 1, False) for row in range(0, 28, 2)])
    assert torch.equal(_fit(data, 1e-3).weight, _fit(data, 1e-3).weight)


def test_pairs_fix_the_unit_of_scores_and_each_cohort_is_read_with_a_scale_of_its_own() -> None:
    # The margin is log 3; a cohort that likes nine of ten of one and one of ten of the other is at +-log 9: scale 4.
    states = torch.tensor([[1.0], [-1.0]])
    thumbs = [(0, True, 0)] * 9 + [(0, False, 0)] + [(1, True, 0)] + [(1, False, 0)] * 9
    probe = _fit(_data(states, [(0, 1, False)] * 3 + [(1, 0, False)], thumbs))
    scores = states @ probe.weight
    assert float(scores[0] - scores[1]) == pytest.approx(math.log(3), abs=1e-3)
    assert probe.scales.tolist() == pytest.approx([4.0], abs=1e-2)


def test_without_decided_pairs_the_score_is_the_log_odds_of_who_says_most() -> None:
    # Equal answers tie, which tells neither a margin nor a threshold: any larger one would explain it better.
    states = torch.tensor([[1.0], [-1.0], [-1.0]])
    clear = [(0, True, 1)] * 9 + [(0, False, 1)] + [(1, True, 1)] + [(1, False, 1)] * 9
    vague = [(0, True, 0)] * 3 + [(0, False, 0)] + [(1, True, 0)] + [(1, False, 0)] * 3
    probe = _fit(_data(states, [(1, 2, True)], [*vague, *clear]), cohorts=2)
    scores = states @ probe.weight
    assert float(scores[0] - scores[1]) == pytest.approx(2 * math.log(9), abs=1e-3)
    assert probe.scales.tolist() == pytest.approx([0.5, 1.0], abs=1e-3)
    assert math.exp(probe.log_eta) == pytest.approx(0.5)


@pytest.mark.parametrize("said", ["thumbs of one cohort", "thumbs of two", "ratings"])
def test_without_pairs_the_penalty_keeps_a_noisy_head_better_than_a_coin(said: str) -> None:
    """A hundred words on sixty numbers, which unpenalised fit the noise: sure of it, and wrong."""
    generator = torch.Generator().manual_seed(1)
    states = torch.randn(1120, 60, generator=generator)
    direction = torch.randn(60, generator=generator)
    liked = torch.rand(1120, generator=generator) < torch.sigmoid(1.5 * states @ direction / direction.norm())
    rows = torch.arange(120)
    if said == "ratings":
        five = torch.rand(120, generator=generator) < 0.5
        stars = torch.where(liked[:120], 4 + five.long(), 1 + five.long())
        ratings = ProbeRatings(rows, stars, torch.ones(120), rows % 5, rows % FOLDS, 5)
        data, cohorts = replace(_data(states[:120]), ratings=ratings), 0
    else:
        cohorts = 2 if said == "thumbs of two" else 1
        data = _data(states[:120], thumbs=[(row, bool(liked[row]), row % cohorts) for row in range(120)])

    def steepness(probe: Probe) -> float:
        scales = probe.scales if probe.ratings is None else probe.ratings[:1].exp()
        return float((scales**2).mean().sqrt() * probe.weight.norm())

    def heldout(probe: Probe) -> float:
        scale, bias = (1.0, 0.0) if probe.ratings is not None else (float(probe.scales[0]), float(probe.biases[0]))
        logits = scale * (states[120:] @ probe.weight + probe.bias) + bias
        return float(binary_cross_entropy_with_logits(logits, liked[120:].float()))

    weak, strong = _fit(data, 1e-3, cohorts=cohorts), _fit(data, 1e-1, cohorts=cohorts)
    assert steepness(strong) < 0.5 * steepness(weak)
    assert heldout(strong) < 0.67 < heldout(weak)
