"""A trained reward model: scores answers, is judged on labels, is stored and loaded.

Knows an adapter with a scalar head on a shared base, and its standardisation. Training is in `learn.reward`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from schemas.errors import InvalidInput
from trainer.algorithms import preference
from trainer.data import PreferencePair, ThumbedAnswer, TokenPair
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

    def raw_scores(self, answers: Sequence[TokenPair]) -> Tensor:
        """Raw scores [N] (logits of preference), float32 on the CPU."""
        scores = torch.zeros(len(answers))
        with self.base.role(self.role), torch.no_grad():
            for batch in self.base.batches(answers, range(len(answers)), self.token_budget):
                scores[list(batch.rows)] = self.base.scalar(self.role, batch, self.pooling).cpu()
        return scores

    def score(self, answers: Sequence[TokenPair]) -> list[float]:
        """Standardised scores, clipped: in standard deviations of the reference answers."""
        standard = (self.raw_scores(answers) - self.mean) / self.deviation
        return [float(value) for value in standard.clamp(-self.clip, self.clip)]

    def evaluate(self, pairs: Sequence[PreferencePair], thumbs: Sequence[ThumbedAnswer]) -> dict[str, float]:
        """Figures on labels it was not trained on.

        Returns:
            pairs, thumbs (counts); accuracy_pairs and accuracy_pairs_SOURCE (untied pairs; share); margin (mean
            chosen minus rejected, standard deviations); ece_pairs; accuracy_thumbs, ece_thumbs (by cohort logits);
            corr_reward_length and corr_reward_length_partial (Pearson's r over all labelled answers, length in tokens,
            the second given the verdict: 1 chosen or liked, 0.5 tied, 0 otherwise). A figure without data is left out.
        """
        figures = {"pairs": float(len(pairs)), "thumbs": float(len(thumbs))}
        answers = [(pair.prompt_ids, pair.chosen_ids) for pair in pairs]
        answers += [(pair.prompt_ids, pair.rejected_ids) for pair in pairs]
        answers += [(item.prompt_ids, item.answer_ids) for item in thumbs]
        if not answers:
            return figures
        scores = self.raw_scores(answers)
        margins = scores[: len(pairs)] - scores[len(pairs) : 2 * len(pairs)]
        untied = torch.tensor([not pair.tie for pair in pairs], dtype=torch.bool)
        if bool(untied.any()):
            figures |= self._pair_figures(margins, untied, [pair.source for pair in pairs])
        if thumbs:
            figures |= self._thumb_figures(scores[2 * len(pairs) :], thumbs)
        verdict = [0.5 if pair.tie else 1.0 for pair in pairs] + [0.5 if pair.tie else 0.0 for pair in pairs]
        verdict += [float(item.liked) for item in thumbs]
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
            write_json(
                work / _FILE,
                {
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
        )


def standardise(model: RewardModel, reference: Sequence[TokenPair]) -> RewardModel:
    """The same model with scores of mean 0 and deviation 1 on the reference answers."""
    raw = model.raw_scores(reference).double()
    deviation = float(raw.std(unbiased=False))
    return replace(model, mean=float(raw.mean()), deviation=max(deviation, 1e-6))
