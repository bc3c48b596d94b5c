"""What the others would say: a linear probe on the frozen base's states, fitted without the person it speaks of.

Cross-fitting: people are dealt to folds by their pseudonym, and of each fold's people only the other folds' votes have
a say (Chernozhukov et al. 2018, "Double/debiased machine learning"). Else a bot with many votes would agree with the
probe that it made. Knows states and votes; knows no tokens, no model and nobody's verdict on anybody.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.functional import softplus

from trainer.quality.votes import AnswerKey, Vote

FOLDS = 5
_PENALTIES = (0.0003, 0.003, 0.03, 0.3)
_WIDTH = 256
_ITERATIONS = 40


def margins(votes: Sequence[Vote], states: Tensor, rows: Mapping[AnswerKey, int]) -> list[float | None]:
    """For each vote the log-odds that it is right, by people of other folds; None where they are too few.

    A pair is right where the others' score of `answer` is above that of `other`; a thumb where the score is above the
    middle of all thumbed answers and it is up, or below and it is down: how readily somebody is pleased is no fault.

    Args:
        states: float [N, H], pooled states of the answers by the frozen base.
        rows: of `states`, by answer; a vote on an answer that is not there gets None.
    """
    known = [place for place, vote in enumerate(votes) if _is_known(vote, rows)]
    found: list[float | None] = [None] * len(votes)
    folds = torch.tensor([fold_of(votes[place].rater) for place in known], dtype=torch.int64)
    if len(set(folds.tolist())) < FOLDS:
        return found
    features = _features(states)
    answer = torch.tensor([rows[votes[place].answer] for place in known], dtype=torch.int64)
    is_pair = torch.tensor([votes[place].other is not None for place in known])
    other = torch.tensor([rows[votes[place].other or votes[place].answer] for place in known], dtype=torch.int64)
    liked = torch.tensor([votes[place].liked for place in known])
    sign = torch.where(liked, 1.0, -1.0).double()
    design = torch.where(is_pair[:, None], features[answer] - features[other], features[answer])
    best: Tensor | None = None
    least = float("inf")
    for penalty in _PENALTIES:
        right = torch.zeros(len(known), dtype=torch.float64)
        loss = 0.0
        for fold in range(FOLDS):
            inside = folds == fold
            weight, bias = _fit(design[~inside], sign[~inside], is_pair[~inside], penalty)
            scores = design @ weight
            loss += float(softplus(-sign * torch.where(is_pair, scores, scores + bias))[inside].sum())
            thumbs = scores[~is_pair]
            middle = thumbs.median() if thumbs.numel() else torch.zeros((), dtype=torch.float64)
            right[inside] = (sign * torch.where(is_pair, scores, scores - middle))[inside]
        if loss < least:
            least, best = loss, right
    assert best is not None  # noqa: S101 there are penalties
    for place, margin in zip(known, best.tolist(), strict=True):
        found[place] = margin
    return found


def fold_of(rater: str) -> int:
    """A person's fold, the same in every process."""
    return int.from_bytes(hashlib.sha256(f"rater fold {rater}".encode()).digest()[:6], "big") % FOLDS


def _is_known(vote: Vote, rows: Mapping[AnswerKey, int]) -> bool:
    return vote.answer in rows and (vote.other is None or vote.other in rows)


def _features(states: Tensor) -> Tensor:
    """Standardised; of wide states some hundred random directions, in which inner products are nearly those of all
    (Johnson & Lindenstrauss 1984): this is asked at every turn, and nothing is made of it but yes and no.
    """
    wide = states.double()
    if wide.shape[1] > _WIDTH:
        generator = torch.Generator().manual_seed(0)
        wide = wide @ torch.randn(wide.shape[1], _WIDTH, generator=generator, dtype=torch.float64) / _WIDTH**0.5
    return (wide - wide.mean(0)) / wide.std(0, unbiased=False).clamp(min=1e-6)


def _fit(design: Tensor, sign: Tensor, is_pair: Tensor, penalty: float) -> tuple[Tensor, Tensor]:
    """Weights [H] and the bias of thumbs that minimise the mean logistic loss + penalty x |w|^2; L-BFGS."""
    weight = torch.zeros(design.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([weight, bias], max_iter=_ITERATIONS, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        scores = design @ weight
        logits = torch.where(is_pair, scores, scores + bias)
        loss = softplus(-sign * logits).mean() + penalty * (weight**2).sum()
        torch.autograd.backward(loss)
        return loss

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    return weight.detach(), bias.detach()
