"""The reward model's start: a linear head on the frozen base's states, fitted before any adapter moves.

Linear probing, then fine-tuning (Kumar et al. 2022, arXiv 2202.10054): a head that starts at zero sends random
gradients through the adapter until it has found its direction, and with few labels an epoch is over by then. The loss
is the one that fine-tuning goes on with, plus a ridge penalty chosen by cross-validation over voters.

Knows pooled states and verdicts; knows no tokens and no model. All of it takes answers x H numbers of host memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.algorithms import ordinal
from trainer.algorithms.preference import pair_losses, thumb_losses
from trainer.learn.anchor import held_scale, hold
from trainer.learn.probe_data import FOLDS, Kept, ProbeData

_ITERATIONS = 50


@dataclass(frozen=True)
class ProbeWeights:
    """How much each part of the loss counts, as in `learn.reward`."""

    thumbs: float
    """Of thumbs and ratings."""
    centring: float
    rater_deviation: float = 1.0
    """Of the prior on raters' offsets, logits."""


@dataclass(frozen=True)
class Probe:
    """A fitted head: score = states @ weight + bias, of mean 0 over the answers."""

    weight: Tensor
    """float32 [H]."""
    bias: float
    scales: Tensor
    """float32 [C], by cohort: P(thumb up) = sigmoid(scale * score + cohort bias)."""
    biases: Tensor
    """float32 [C]."""
    log_eta: float
    """Log of the Rao-Kupper threshold; as given where there are no ties, or nothing but ties."""
    penalty: float
    """The ridge penalty that was chosen."""
    ratings: Tensor | None = None
    """float32 [5 + R], `ordinal`'s numbers; None where there are no ratings."""


def fit_probe(data: ProbeData, weights: ProbeWeights, penalties: Sequence[float], *, cohorts: int, eta: float) -> Probe:
    """The head that minimises the loss on all labels, at the penalty that predicted other voters' labels best.

    Loss = weighted mean Rao-Kupper loss of pairs + thumbs x weighted mean BCE + centring x mean(score^2)
    + penalty x |w|^2, with w on states standardised by feature. Ratings share the mean of the thumbs, with the prior on
    their raters' offsets. Convex but for the scales of cohorts and ratings; L-BFGS in float64. Without decided pairs
    one scale is 1 (`learn.anchor`), and the penalty is on what readers are told, |scale x w|^2, mean by their weight;
    and the tie threshold stays as given.

    Args:
        penalties: candidates; of several with too few voters to compare them, the largest.
        cohorts: C, number of scale and bias pairs.
        eta: Rao-Kupper threshold to start from, > 0.
    """
    states = data.states.double()
    mean, deviation = states.mean(0), states.std(0, unbiased=False).clamp(min=1e-6)
    features = (states - mean) / deviation
    chosen = max(penalties)
    if len(penalties) > 1 and _enough_voters(data):
        errors = [_validation_error(data, features, weights, penalty, cohorts, eta) for penalty in penalties]
        chosen = penalties[min(range(len(penalties)), key=lambda place: (errors[place], -penalties[place]))]
    w, extras, numbers = _minimise(data, features, weights, chosen, cohorts, eta, None)
    slope = w / deviation
    return Probe(
        weight=slope.float(),
        bias=float(-(mean @ slope)),
        scales=extras[:cohorts].exp().float(),
        biases=extras[cohorts : 2 * cohorts].float(),
        log_eta=float(extras[-1]),
        penalty=chosen,
        ratings=None if numbers is None else numbers.float(),
    )


def _enough_voters(data: ProbeData) -> bool:
    voters = [data.pair_voters, data.thumb_voters, *([data.ratings.voters] if data.ratings else [])]
    folds = torch.cat(voters) % FOLDS
    return len(set(folds.tolist())) == FOLDS


def _validation_error(
    data: ProbeData, features: Tensor, weights: ProbeWeights, penalty: float, cohorts: int, eta: float
) -> float:
    """Loss on each fold of a head fitted on the others, summed; the penalty itself is no part of it."""
    total = 0.0
    for fold in range(FOLDS):
        w, extras, numbers = _minimise(data, features, weights, penalty, cohorts, eta, fold)
        total += float(_loss(data, features @ w, extras, numbers, weights, cohorts, data.inside(fold)))
    return total


def _minimise(
    data: ProbeData,
    features: Tensor,
    weights: ProbeWeights,
    penalty: float,
    cohorts: int,
    eta: float,
    without: int | None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Head [H] on standardised features, log-scales, biases and log-eta [2C + 1], and the numbers of ratings, fitted
    without one fold."""
    kept = data.outside(without)
    w = torch.zeros(features.shape[1], dtype=torch.float64, requires_grad=True)
    start = torch.zeros(2 * cohorts + 1, dtype=torch.float64)
    start[-1] = torch.tensor(eta, dtype=torch.float64).log()
    extras = start.requires_grad_()
    numbers: Tensor | None = None
    if data.ratings is not None:
        numbers = ordinal.fresh(data.ratings.count).double().requires_grad_()
    decided, readers = data.masses(cohorts, kept)
    held = held_scale(decided, readers)
    if not decided:
        hold(extras, -1)  # a threshold without bound would explain ties alone
    if held is not None and held < cohorts:
        hold(extras, held)
    elif held is not None and numbers is not None:
        hold(numbers, 0)
    shares = torch.tensor(readers, dtype=torch.float64) / max(sum(readers), 1e-6)
    free = [w, extras, *([] if numbers is None else [numbers])]
    optimiser = torch.optim.LBFGS(free, max_iter=_ITERATIONS, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        ridge = penalty * (w**2).sum()
        if held is not None:
            log_scales = extras[:cohorts] if numbers is None else torch.cat([extras[:cohorts], numbers[:1]])
            ridge = ridge * (shares * (2 * log_scales).exp()).sum()
        loss = _loss(data, features @ w, extras, numbers, weights, cohorts, kept) + ridge
        if numbers is not None:
            loss = loss + _prior(data, numbers, weights, kept)
        torch.autograd.backward(loss)
        return loss

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    return w.detach(), extras.detach(), None if numbers is None else numbers.detach()


def _prior(data: ProbeData, numbers: Tensor, weights: ProbeWeights, kept: Kept) -> Tensor:
    """Of the raters' offsets, at the weight of one rating for each unit of log-likelihood."""
    assert data.ratings is not None and kept.ratings is not None  # noqa: S101, PT018 there are numbers, so ratings
    mass = data.thumb_weights[kept.thumbs].double().sum() + data.ratings.weights[kept.ratings].double().sum()
    offsets = ordinal.read(numbers).offsets
    return weights.thumbs * ordinal.offset_losses(offsets, weights.rater_deviation).sum() / mass.clamp(min=1e-6)


def _loss(
    data: ProbeData,
    scores: Tensor,
    extras: Tensor,
    numbers: Tensor | None,
    weights: ProbeWeights,
    cohorts: int,
    kept: Kept,
) -> Tensor:
    pairs, thumbs, rated = kept
    loss = weights.centring * (scores**2).mean()
    if bool(pairs.any()):
        margin, ties = (scores[data.chosen] - scores[data.rejected])[pairs], data.ties[pairs]
        eta = extras[-1].exp() if bool(ties.any()) else torch.zeros((), dtype=torch.float64)
        share = data.pair_weights[pairs].double()
        loss = loss + (share * pair_losses(margin, ties, eta)).sum() / share.sum()
    verdicts: list[tuple[Tensor, Tensor]] = []
    if bool(thumbs.any()):
        cohort, share = data.cohorts[thumbs], data.thumb_weights[thumbs].double()
        scale, bias = extras[:cohorts].exp()[cohort], extras[cohorts : 2 * cohorts][cohort]
        losses = thumb_losses(scores[data.thumbed][thumbs], data.liked[thumbs], scale, bias)
        verdicts.append(((share * losses).sum(), share.sum()))
    if data.ratings is not None and numbers is not None and rated is not None and bool(rated.any()):
        scale, thresholds, offsets = ordinal.read(numbers)
        location = scale * scores[data.ratings.answers] + offsets[data.ratings.raters]
        losses = ordinal.rating_losses(location, data.ratings.stars, thresholds)[rated]
        share = data.ratings.weights[rated].double()
        verdicts.append(((share * losses).sum(), share.sum()))
    if verdicts:
        summed, masses = zip(*verdicts, strict=True)
        loss = loss + weights.thumbs * torch.stack(summed).sum() / torch.stack(masses).sum()
    return loss
