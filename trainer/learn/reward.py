"""The reward model: learns from pairs, rankings, ties and thumbs what people prefer, and scores answers.

Loss over the data = mean Rao-Kupper loss of pairs + 0.5 x mean BCE of thumbs + 0.01 x mean score^2, means by weight.
Knows tokens and verdicts. Knows nothing of where they came from; splits are the caller's.

Departures from InstructGPT: a batch's loss is its share of the dataset's loss, so a batch that happens to hold one
thumb does not give that thumb the weight of all; and a fresh model starts from a linear probe (`learn.probe`).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from schemas.errors import InvalidInput
from trainer.algorithms.preference import pair_losses, thumb_losses
from trainer.data import PreferencePair, ThumbedAnswer, TokenPair
from trainer.learn.config import RewardConfig
from trainer.learn.optimise import clipped_step, schedule, set_rates
from trainer.learn.probe import ProbeData, ProbeWeights, fit_probe, voter_number
from trainer.learn.progress import Progress, silent
from trainer.learn.reward_model import Cohort, RewardModel, standardise
from trainer.models.base import SharedBase
from trainer.models.batching import micro_batches, pad_batch

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Unit:
    """What must stay in one micro-batch: a ranking's pairs over its distinct answers, or one thumb."""

    answers: tuple[TokenPair, ...]
    pairs: tuple[tuple[int, int, bool, float], ...]
    """(chosen, rejected, tie, weight), indices into `answers`."""
    thumb: ThumbedAnswer | None
    group: str
    """Pseudonym of who spoke."""

    @property
    def longest(self) -> int:
        return max(len(prompt) + len(answer) for prompt, answer in self.answers)


class _Extras(nn.Module):
    """Learned numbers beside the score: log-scale and bias per cohort, tie threshold eta = exp(log_eta)."""

    def __init__(self, cohorts: dict[str, Cohort], eta: float) -> None:
        super().__init__()
        self.names = sorted(cohorts)
        self.log_scale = nn.Parameter(torch.tensor([cohorts[name].scale for name in self.names]).log())
        self.bias = nn.Parameter(torch.tensor([cohorts[name].bias for name in self.names]))
        self.log_eta = nn.Parameter(torch.tensor(eta).log())

    def cohorts(self) -> dict[str, Cohort]:
        scales, biases = self.log_scale.exp().tolist(), self.bias.tolist()
        return {name: Cohort(scales[i], biases[i]) for i, name in enumerate(self.names)}


def train_reward_model(
    base: SharedBase,
    pairs: Sequence[PreferencePair],
    thumbs: Sequence[ThumbedAnswer],
    config: RewardConfig,
    seed: int,
    *,
    reference: Sequence[TokenPair] = (),
    start_from: Path | None = None,
    role: str = "reward",
    progress: Progress = silent,
) -> RewardModel:
    """Train the adapter and head of `role` on `base`; judge the result with `RewardModel.evaluate` on held-out data.

    Args:
        reference: answers whose scores shall have mean 0 and deviation 1; by default those of `pairs` and `thumbs`.
        start_from: folder of an earlier reward model to continue from; otherwise fresh from `seed`.
        role: name of the adapter; two reward models on one base need two names.

    Raises:
        InvalidInput: nothing to learn from.
    """
    units = _units(pairs, thumbs)
    if not units:
        raise InvalidInput("There are neither pairs nor thumbs", field="pairs")
    if start_from is None:
        base.open(role, seed)
        known: dict[str, Cohort] = {}
        eta = config.initial_tie_threshold
    else:
        earlier = RewardModel.load(base, start_from, role=role)
        known, eta = earlier.cohorts, earlier.tie_threshold or config.initial_tie_threshold
    cohorts = {name: known.get(name, Cohort(1.0, 0.0)) for name in {item.cohort for item in thumbs} | set(known)}
    extras = _Extras(cohorts, eta).to(base.device)
    has_ties = any(pair.tie for pair in pairs)
    if start_from is None:
        _start_from_probe(base, role, units, extras, config, progress)
    _fit(base, role, units, extras, has_ties, config, seed, progress)
    if not reference:
        reference = [answer for unit in units for answer in unit.answers]
    model = RewardModel(
        base=base,
        role=role,
        mean=0.0,
        deviation=1.0,
        clip=config.score_clip,
        tie_threshold=float(extras.log_eta.detach().exp()) if has_ties else 0.0,
        cohorts=extras.cohorts(),
        pooling=config.pooling,
        token_budget=config.micro_batch_tokens,
    )
    return standardise(model, reference)


def _units(pairs: Sequence[PreferencePair], thumbs: Sequence[ThumbedAnswer]) -> list[_Unit]:
    sets: dict[str, list[PreferencePair]] = {}
    for pair in pairs:
        sets.setdefault(pair.set_id, []).append(pair)
    units = []
    for members in sets.values():
        places: dict[TokenPair, int] = {}
        entries = []
        for pair in members:
            chosen = places.setdefault((pair.prompt_ids, pair.chosen_ids), len(places))
            rejected = places.setdefault((pair.prompt_ids, pair.rejected_ids), len(places))
            entries.append((chosen, rejected, pair.tie, pair.weight))
        units.append(_Unit(tuple(places), tuple(entries), None, members[0].group))
    units += [_Unit(((item.prompt_ids, item.answer_ids),), (), item, item.group) for item in thumbs]
    return units


def _start_from_probe(
    base: SharedBase,
    role: str,
    units: Sequence[_Unit],
    extras: _Extras,
    config: RewardConfig,
    progress: Progress,
) -> None:
    """Set head, cohorts and tie threshold to those of a linear probe; the fresh adapter changes nothing yet."""
    answers = list(dict.fromkeys(answer for unit in units for answer in unit.answers))
    place = {answer: row for row, answer in enumerate(answers)}
    states: Tensor | None = None
    done = 0
    with base.role(None), torch.no_grad():
        for batch in micro_batches(answers, range(len(answers)), config.micro_batch_tokens, base.device):
            found = base.pooled(batch, config.pooling).cpu()
            states = torch.zeros(len(answers), found.shape[1]) if states is None else states
            states[list(batch.rows)] = found
            done += len(batch.rows)
            progress("reward_probe", done, len(answers), {})
    assert states is not None  # noqa: S101 there are units, so there are answers
    pairs = [(unit, entry) for unit in units for entry in unit.pairs]
    thumbs = [unit.thumb for unit in units if unit.thumb is not None]
    data = ProbeData(
        states=states,
        chosen=torch.tensor([place[unit.answers[first]] for unit, (first, *_) in pairs], dtype=torch.int64),
        rejected=torch.tensor([place[unit.answers[other]] for unit, (_, other, *_) in pairs], dtype=torch.int64),
        ties=torch.tensor([tie for _, (_, _, tie, _) in pairs], dtype=torch.bool),
        pair_weights=torch.tensor([weight for *_, (*_, weight) in pairs], dtype=torch.float32),
        pair_voters=torch.tensor([voter_number(unit.group) for unit, _ in pairs], dtype=torch.int64),
        thumbed=torch.tensor([place[item.prompt_ids, item.answer_ids] for item in thumbs], dtype=torch.int64),
        liked=torch.tensor([item.liked for item in thumbs], dtype=torch.bool),
        thumb_weights=torch.tensor([item.weight for item in thumbs], dtype=torch.float32),
        thumb_voters=torch.tensor([voter_number(item.group) for item in thumbs], dtype=torch.int64),
        cohorts=torch.tensor([extras.names.index(item.cohort) for item in thumbs], dtype=torch.int64),
    )
    probe = fit_probe(
        data,
        ProbeWeights(thumbs=config.thumbs_coefficient, centring=config.centring_coefficient),
        config.probe_penalties,
        cohorts=len(extras.names),
        eta=config.initial_tie_threshold,
    )
    log.info("reward model: probe of %d answers, penalty %g", len(answers), probe.penalty)
    weights = base.snapshot(role)
    weights["head.weight"], weights["head.bias"] = probe.weight[None], torch.tensor([probe.bias])
    base.restore(role, weights)
    with torch.no_grad():
        extras.log_scale.copy_(probe.scales.log())
        extras.bias.copy_(probe.biases)
        extras.log_eta.fill_(probe.log_eta)


def _fit(
    base: SharedBase,
    role: str,
    units: Sequence[_Unit],
    extras: _Extras,
    has_ties: bool,
    config: RewardConfig,
    seed: int,
    progress: Progress,
) -> None:
    parameters = base.parameters(role)
    adapter = [parameter for name, parameter in parameters.items() if not name.startswith("head.")]
    head = [parameter for name, parameter in parameters.items() if name.startswith("head.")]
    rates = (config.learning_rate, config.head_learning_rate)
    optimiser = torch.optim.AdamW(
        [{"params": adapter}, {"params": [*head, *extras.parameters()]}], lr=config.learning_rate, weight_decay=0.0
    )
    generator = torch.Generator().manual_seed(seed)
    per_epoch = -(-len(units) // config.batch_sets)
    total = per_epoch * config.epochs
    done = 0
    for _ in range(config.epochs):
        order = torch.randperm(len(units), generator=generator).tolist()
        for first in range(0, len(order), config.batch_sets):
            factor = schedule(done / total, config.warmup_fraction)
            set_rates(optimiser, [rate * factor for rate in rates])
            chosen = [units[i] for i in order[first : first + config.batch_sets]]
            metrics = _accumulate(base, role, chosen, _Scale.of(units, per_epoch, config), extras, has_ties, config)
            metrics["grad_norm"] = clipped_step(optimiser, config.max_grad_norm)
            done += 1
            progress("reward_model", done, total, metrics)
    log.info("reward model: %d steps on %d sets", done, len(units))


@dataclass(frozen=True)
class _Scale:
    """Factors from sums over a batch to its share of the dataset's loss, times the steps of an epoch."""

    pairs: float
    thumbs: float
    centring: float

    @classmethod
    def of(cls, units: Sequence[_Unit], per_epoch: int, config: RewardConfig) -> _Scale:
        pairs = sum(weight for unit in units for *_, weight in unit.pairs)
        thumbs = sum(unit.thumb.weight for unit in units if unit.thumb)
        answers = sum(len(unit.answers) for unit in units)
        return cls(
            per_epoch / pairs if pairs else 0.0,
            per_epoch * config.thumbs_coefficient / thumbs if thumbs else 0.0,
            per_epoch * config.centring_coefficient / answers,
        )


def _accumulate(
    base: SharedBase,
    role: str,
    units: Sequence[_Unit],
    scale: _Scale,
    extras: _Extras,
    has_ties: bool,
    config: RewardConfig,
) -> dict[str, float]:
    """Add up the gradient of one optimiser step; returns its loss and the share of pairs ordered rightly."""
    total, right, judged = 0.0, 0, 0
    for group in _groups(units, config.micro_batch_tokens):
        answers = [answer for unit in group for answer in unit.answers]
        with base.role(role):
            batch = pad_batch(answers, range(len(answers)), base.device)
            scores = base.scalar(role, batch, config.pooling)
        loss = scale.centring * (scores**2).sum()
        chosen, rejected, ties, weights = _pair_index(group, base.device)
        if chosen.numel():
            margin = scores[chosen] - scores[rejected]
            eta = extras.log_eta.exp() if has_ties else torch.zeros((), device=base.device)
            loss = loss + scale.pairs * (weights * pair_losses(margin, ties, eta)).sum()
            right += int(((margin > 0) & ~ties).sum())
            judged += int((~ties).sum())
        loss = loss + scale.thumbs * _thumbs_loss(group, scores, extras)
        torch.autograd.backward(loss)
        total += float(loss.detach())
    return {"loss": total, "train_accuracy": right / judged} if judged else {"loss": total}


def _groups(units: Sequence[_Unit], token_budget: int) -> Iterator[list[_Unit]]:
    """Units of similar length together, padded size within the budget (a bigger unit goes alone)."""
    group: list[_Unit] = []
    rows = width = 0
    for unit in sorted(units, key=lambda unit: -unit.longest):
        width = max(width, unit.longest)
        if group and width * (rows + len(unit.answers)) > token_budget:
            yield group
            group, rows, width = [], 0, unit.longest
        group.append(unit)
        rows += len(unit.answers)
    yield group


def _pair_index(group: Sequence[_Unit], device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Rows of chosen and rejected answers, ties and weights of all pairs in the group, each [N]."""
    entries: list[tuple[int, int, bool, float]] = []
    offset = 0
    for unit in group:
        entries += [(chosen + offset, rejected + offset, tie, weight) for chosen, rejected, tie, weight in unit.pairs]
        offset += len(unit.answers)
    return (
        torch.tensor([entry[0] for entry in entries], dtype=torch.int64, device=device),
        torch.tensor([entry[1] for entry in entries], dtype=torch.int64, device=device),
        torch.tensor([entry[2] for entry in entries], dtype=torch.bool, device=device),
        torch.tensor([entry[3] for entry in entries], dtype=torch.float32, device=device),
    )


def _thumbs_loss(group: Sequence[_Unit], scores: Tensor, extras: _Extras) -> Tensor:
    """Weighted sum of the thumbs' losses in the group; scalar."""
    rows, thumbs, offset = [], [], 0
    for unit in group:
        if unit.thumb is not None:
            rows.append(offset)
            thumbs.append(unit.thumb)
        offset += len(unit.answers)
    if not thumbs:
        return scores.new_zeros(())
    cohort = torch.tensor([extras.names.index(item.cohort) for item in thumbs], device=scores.device)
    liked = torch.tensor([item.liked for item in thumbs], device=scores.device)
    weights = torch.tensor([item.weight for item in thumbs], device=scores.device)
    return (weights * thumb_losses(scores[rows], liked, extras.log_scale.exp()[cohort], extras.bias[cohort])).sum()
