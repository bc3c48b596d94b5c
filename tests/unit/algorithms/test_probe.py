"""The reward model's probe finds what can be found in closed form, and chooses its penalty on other voters."""

import math

import pytest
import torch

from trainer.learn.probe import FOLDS, Probe, ProbeData, ProbeWeights, fit_probe

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
