"""A trained reward model: scores answers, is judged on labels, is stored and loaded.

Knows an adapter with a scalar head on a shared base, and its standardisation. Training is in `learn.reward`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from schemas.errors import InvalidInput
from trainer.algorithms import ordinal, preference
from trainer.data import PreferencePair, RatedAnswer, ThumbedAnswer, TokenPair
from trainer.learn.states import pooled_states
from trainer.models.adapter import load_role, save_role
from trainer.models.base import Pooling, SharedBase
from trainer.models.files import read_json, whole_folder, write_json

_FORMAT = 2
_FILE = "reward.json"


@dataclass(frozen=True)
class Cohort:
    """How a group of users votes: P(thumb up) = sigmoid(scale * raw score + bias)."""

    scale: float
    bias: float


@dataclass(frozen=True)
class RatingScale:
    """How people rate: P(stars <= k) = sigmoid(threshold k - scale * raw score - the rater's offset)."""

    scale: float
    thresholds: tuple[float, ...]
    """Four, rising, in logits."""

    def cohort(self) -> Cohort:
        """How the common rater would press a thumb: up for four and five stars, down for one and two.

        The log odds of the two are no line in the score; this is its tangent where they are even.
        """
        _, second, third, _ = self.thresholds
        steepness = 2 / (1 + math.exp((second - third) / 2))
        return Cohort(steepness * self.scale, -steepness * (second + third) / 2)


class Scorer(Protocol):
    """What gives answers their reward."""

    def score(self, answers: Sequence[TokenPair]) -> list[float]:
        """A reward for each answer, in standard deviations of the reward model's reference answers."""


@dataclass(frozen=True)
class RewardModel:
    """Scores answers by the weights that `role` holds on `base`; training that role again changes this model."""

    base: SharedBase
    role: str
    mean: float
    """Mean raw score of the reference answers."""
    deviation: float
    """Standard deviation of the raw scores of the reference answers."""
    clip: float
    """Bound of a standardised score, in standard deviations."""
    tie_threshold: float
    """Rao-Kupper eta, in raw score units; 0 where no ties were seen."""
    cohorts: dict[str, Cohort]
    pooling: Pooling
    """Which state of an answer the head reads."""
    token_budget: int
    """Positions per forward pass."""
    ratings: RatingScale | None = None
    """None where no ratings were seen."""
    known: Mapping[TokenPair, float] = field(default_factory=dict, compare=False, repr=False)
    """Raw scores that need not be found again."""

    def remembering(self, answers: Sequence[TokenPair]) -> RewardModel:
        """The same model, which knows its scores of these answers alone. They are found together, whatever it knew
        before, so that the same answers always have the same bits.
        """
        anew = replace(self, known={})
        return replace(anew, known=dict(zip(answers, anew.raw_scores(answers).tolist(), strict=True)))

    def raw_scores(self, answers: Sequence[TokenPair]) -> Tensor:
        """Raw scores [N] (logits of preference), float32 on the CPU."""
        scores = torch.tensor([self.known.get(answer, 0.0) for answer in answers])
        new = [row for row, answer in enumerate(answers) if answer not in self.known]
        if new:
            with self.base.role(self.role), torch.no_grad():
                for batch in self.base.batches(answers, new, self.token_budget):
                    scores[list(batch.rows)] = self.base.scalar(self.role, batch, self.pooling).cpu()
        return scores

    def states(self, answers: Sequence[TokenPair]) -> Tensor:
        """What the head reads of each answer [N, H], float32 on the CPU."""
        return pooled_states(self.base, answers, self.pooling, self.token_budget, role=self.role)

    def standard(self, states: Tensor) -> Tensor:
        """Standardised scores [N] out of `states` [N, H], not clipped."""
        with torch.no_grad():
            return (self.base.project(self.role, states.to(self.base.device)).cpu() - self.mean) / self.deviation

    def score(self, answers: Sequence[TokenPair]) -> list[float]:
        """Standardised scores, clipped: in standard deviations of the reference answers."""
        standard = (self.raw_scores(answers) - self.mean) / self.deviation
        return [float(value) for value in standard.clamp(-self.clip, self.clip)]

    def evaluate(
        self,
        pairs: Sequence[PreferencePair],
        thumbs: Sequence[ThumbedAnswer],
        ratings: Sequence[RatedAnswer] = (),
    ) -> dict[str, float]:
        """Figures on labels it was not trained on.

        Returns:
            pairs, thumbs, and ratings if any (counts); accuracy_pairs and accuracy_pairs_SOURCE (untied pairs; share);
            margin (mean chosen minus rejected, standard deviations); ece_pairs; accuracy_thumbs, ece_thumbs (by cohort
            logits); accuracy_ratings (share of a rater's pairs of unequal stars ordered likewise, mean over raters);
            corr_reward_length and corr_reward_length_partial (Pearson's r over all labelled answers, length in tokens,
            the second given the verdict: 1 chosen or liked, 0.5 tied, a quarter for each star after the first, 0
            otherwise). A figure without data is left out.
        """
        figures = {"pairs": float(len(pairs)), "thumbs": float(len(thumbs))}
        answers = [(pair.prompt_ids, pair.chosen_ids) for pair in pairs]
        answers += [(pair.prompt_ids, pair.rejected_ids) for pair in pairs]
        answers += [(item.prompt_ids, item.answer_ids) for item in thumbs]
        answers += [(item.prompt_ids, item.answer_ids) for item in ratings]
        if not answers:
            return figures
        scores = self.raw_scores(answers)
        margins = scores[: len(pairs)] - scores[len(pairs) : 2 * len(pairs)]
        untied = torch.tensor([not pair.tie for pair in pairs], dtype=torch.bool)
        if bool(untied.any()):
            figures |= self._pair_figures(margins, untied, [pair.source for pair in pairs])
        if thumbs:
            figures |= self._thumb_figures(scores[2 * len(pairs) :][: len(thumbs)], thumbs)
        if ratings:
            figures["ratings"] = float(len(ratings))
            if (told := rating_accuracy(scores[len(answers) - len(ratings) :], ratings)) is not None:
                figures["accuracy_ratings"] = told
        verdict = [0.5 if pair.tie else 1.0 for pair in pairs] + [0.5 if pair.tie else 0.0 for pair in pairs]
        verdict += [float(item.liked) for item in thumbs]
        verdict += [(item.stars - 1) / (ordinal.STARS - 1) for item in ratings]
        lengths = torch.tensor([float(len(answer)) for _, answer in answers])
        figures["corr_reward_length"] = preference.correlation(scores, lengths)
        figures["corr_reward_length_partial"] = preference.partial_correlation(scores, lengths, torch.tensor(verdict))
        return figures

    def _pair_figures(self, margins: Tensor, untied: Tensor, sources: Sequence[str]) -> dict[str, float]:
        clear = margins[untied]
        won = torch.sigmoid(clear)
        # Chosen always comes first, so each pair is read both ways: otherwise every outcome would be 1.
        stated, happened = torch.cat([won, 1 - won]), torch.cat([torch.ones_like(won), torch.zeros_like(won)])
        figures = {
            "accuracy_pairs": preference.accuracy(clear),
            "margin": float(clear.mean()) / self.deviation,
            "ece_pairs": preference.expected_calibration_error(stated, happened),
        }
        for source in sorted(set(sources)):
            rows = untied & torch.tensor([name == source for name in sources])
            if bool(rows.any()):
                figures[f"accuracy_pairs_{source}"] = preference.accuracy(margins[rows])
        return figures

    def _thumb_figures(self, scores: Tensor, thumbs: Sequence[ThumbedAnswer]) -> dict[str, float]:
        known = [self.cohorts.get(item.cohort, Cohort(1.0, 0.0)) for item in thumbs]
        logits = scores * torch.tensor([c.scale for c in known]) + torch.tensor([c.bias for c in known])
        liked = torch.tensor([item.liked for item in thumbs])
        return {
            "accuracy_thumbs": float(((logits > 0) == liked).double().mean()),
            "ece_thumbs": preference.expected_calibration_error(torch.sigmoid(logits), liked),
        }

    def save(self, out: Path) -> Path:
        """Write adapter, head and `reward.json` to the new folder `out`.

        Raises:
            Conflict: `out` exists.
        """
        with whole_folder(out) as work:
            save_role(self.base, self.role, work)
            cohorts = {name: [cohort.scale, cohort.bias] for name, cohort in self.cohorts.items()}
            rated = {} if self.ratings is None else {"ratings": [self.ratings.scale, *self.ratings.thresholds]}
            write_json(
                work / _FILE,
                {
                    **rated,
                    "format": _FORMAT,
                    "mean": self.mean,
                    "deviation": self.deviation,
                    "clip": self.clip,
                    "tie_threshold": self.tie_threshold,
                    "cohorts": cohorts,
                    "pooling": self.pooling,
                    "token_budget": self.token_budget,
                },
            )
        return out

    @classmethod
    def load(cls, base: SharedBase, folder: Path, *, role: str = "reward") -> RewardModel:
        """Load a stored reward model into `role` of `base`.

        Raises:
            NotFound: a file is missing.
            InvalidInput: written by an unknown version of this code.
            ConfigError: the adapter does not fit the base.
        """
        stored = read_json(folder / _FILE)
        if stored["format"] != _FORMAT:
            raise InvalidInput(f"Reward model of unknown format {stored['format']}", field="format")
        load_role(base, role, folder)
        scale, *thresholds = stored.get("ratings", [0.0])
        return cls(
            base=base,
            role=role,
            mean=stored["mean"],
            deviation=stored["deviation"],
            clip=stored["clip"],
            tie_threshold=stored["tie_threshold"],
            cohorts={name: Cohort(*numbers) for name, numbers in stored["cohorts"].items()},
            pooling=stored["pooling"],
            token_budget=stored["token_budget"],
            ratings=RatingScale(scale, tuple(thresholds)) if thresholds else None,
        )


def rating_accuracy(scores: Tensor, ratings: Sequence[RatedAnswer]) -> float | None:
    """Share of a rater's pairs of unequal stars that these scores [N] order likewise, mean over raters; None: no such
    pairs."""
    stars = torch.tensor([item.stars for item in ratings])
    rows: dict[str, list[int]] = {}
    for row, item in enumerate(ratings):
        rows.setdefault(item.group, []).append(row)
    shares = [ordinal.concordance(scores[theirs], stars[theirs]) for theirs in rows.values()]
    known = [share for share in shares if share is not None]
    return sum(known) / len(known) if known else None


def standardise(model: RewardModel, reference: Sequence[TokenPair]) -> RewardModel:
    """The same model with scores of mean 0 and deviation 1 on the reference answers, which it remembers."""
    model = model.remembering(reference)
    raw = torch.tensor([model.known[answer] for answer in reference], dtype=torch.float64)
    deviation = float(raw.std(unbiased=False))
    return replace(model, mean=float(raw.mean()), deviation=max(deviation, 1e-6))
