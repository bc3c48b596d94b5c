"""The value of a policy from answers that other policies gave: importance sampling, doubly robust, intervals.

Pure functions. An answer is one action (a whole sequence): its ratio is pi(answer | prompt) / mu(answer | prompt), with
mu what was logged. Tensors are float64 [N], one entry for each judged answer, unless said otherwise.

What to believe of them. Both estimators are consistent and biased in small samples: self-normalising pulls towards the
plain mean of what was logged, by O(1 / effective sample size), and so does the cap on ratios. Below some tens of
effective answers the pull is of the size of what is to be seen, and intervals are too narrow: nothing should be decided
there. Neither sees what the policy would say where the behaviour never went (no logged answer there, or top_p and top_k
cut it off); only the model's part of the doubly robust estimate speaks of that, as well as the model knows it.

Departures: the correction of the doubly robust estimate is self-normalised too, because mean(ratio) of capped sequence
ratios is far from 1; and answers may weigh (inverse propensity of being judged).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_LEAST_LOG_RATIO = -50.0
"""A ratio below e^-50 is as good as 0, and sums of ratios stay above it."""


def sequence_ratios(log_ratios: Tensor, cap: float) -> Tensor:
    """min(exp(log ratio), cap): truncated importance weights (Ionides 2008). NaN stays NaN.

    Args:
        log_ratios: sums over each answer of log pi - log mu, nats.
        cap: largest ratio; > 0.
    """
    return log_ratios.double().clamp(min=_LEAST_LOG_RATIO).exp().clamp(max=cap)


def self_normalised(ratios: Tensor, rewards: Tensor, weights: Tensor) -> Tensor:
    """sum(w rho r) / sum(w rho): the self-normalised estimate of the policy's value. [...].

    Args:
        ratios: of `sequence_ratios`, [N].
        rewards: observed, [N].
        weights: how often each answer counts, [..., N]; ones for the plain estimate, draws of a bootstrap for many.

    Source: Swaminathan and Joachims 2015, equation 8.
    """
    return (weights @ (ratios * rewards)) / (weights @ ratios)


def doubly_robust(ratios: Tensor, rewards: Tensor, modelled: Tensor, expected: Tensor, weights: Tensor) -> Tensor:
    """sum(w q_pi) / sum(w) + sum(w rho (r - q)) / sum(w rho): the model's value, corrected by what was seen. [...].

    Right if either the model or the ratios are, up to the bias of small samples.

    Args:
        modelled: q, what the model expects of each logged answer, [N].
        expected: q_pi, what it expects of the policy's own answer to the same prompt (a sample of it), [N].
        ratios, rewards, weights: as in `self_normalised`.

    Source: Dudik, Langford and Li 2011, equation 2, of which Jiang and Li 2016 is the step-wise form; here the answer
    is one step. Self-normalised correction: Thomas and Brunskill 2016 (weighted doubly robust).
    """
    return (weights @ expected) / weights.sum(-1) + self_normalised(ratios, rewards - modelled, weights)


def numbered(names: Sequence[str]) -> Tensor:
    """int64 [N] of N names: equal names have equal numbers, 0 .. P - 1 in the order of the names."""
    places = {name: place for place, name in enumerate(sorted(set(names)))}
    return torch.tensor([places[name] for name in names], dtype=torch.int64)


def people_resampled(people: Tensor, draws: int, seed: int) -> Tensor:
    """How often each answer counts in each draw of a bootstrap over people: float64 [draws, N].

    As many people as there are, drawn with replacement, each with all their answers: answers of one person are not
    independent of each other. Source: Field and Welsh 2007 (cluster bootstrap).

    Args:
        people: int64 [N], who judged each answer: 0 .. P - 1.
    """
    count = int(people.max()) + 1
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(count, (draws, count), generator=generator)
    times = torch.zeros(draws, count, dtype=torch.float64)
    times.scatter_add_(1, drawn, torch.ones(drawn.shape, dtype=torch.float64))
    return times[:, people.cpu()]


def percentile_interval(values: Tensor, confidence: float) -> tuple[float, float]:
    """The two-sided percentile interval of bootstrap values [draws] (Efron 1979)."""
    tail = (1 - confidence) / 2
    low, high = torch.quantile(values.double(), torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return low, high
