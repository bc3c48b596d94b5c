"""The reward model: learns from pairs, rankings, ties, thumbs and ratings what people prefer, and scores answers.

Loss over the data = mean Rao-Kupper loss of pairs + 0.5 x mean loss of verdicts on one answer (BCE of thumbs,
cumulative logit of ratings) + 0.01 x mean score^2, means by weight.
Knows tokens and verdicts. Knows nothing of where they came from; splits are the caller's.

Departures from InstructGPT: a batch's loss is its share of the dataset's loss, so a batch that happens to hold one
thumb does not give that thumb the weight of all; and a fresh model starts from a linear probe (`learn.probe`).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from schemas.errors import InvalidInput
from trainer.algorithms.preference import pair_losses
from trainer.data import PreferencePair, RatedAnswer, ThumbedAnswer, TokenPair
from trainer.learn.config import RewardConfig
from trainer.learn.optimise import clipped_step, schedule, set_rates
from trainer.learn.probe import ProbeWeights, fit_probe
from trainer.learn.probe_data import ProbeData, ProbePair, ProbeRatings, ProbeThumb, voter_number
from trainer.learn.progress import Progress, silent
from trainer.learn.reward_extras import Extras
from trainer.learn.reward_model import Cohort, RatingScale, RewardModel, standardise
from trainer.learn.reward_units import Share, Unit, pair_index, units_of
from trainer.learn.states import pooled_states
from trainer.models.base import SharedBase

log = logging.getLogger(__name__)


def train_reward_model(
    base: SharedBase,
    pairs: Sequence[PreferencePair],
    thumbs: Sequence[ThumbedAnswer],
    config: RewardConfig,
    seed: int,
    *,
    ratings: Sequence[RatedAnswer] = (),
    reference: Sequence[TokenPair] = (),
    start_from: Path | None = None,
    role: str = "reward",
    progress: Progress = silent,
) -> RewardModel:
    """Train the adapter and head of `role` on `base`; judge the result with `RewardModel.evaluate` on held-out data.

    Args:
        reference: answers whose scores shall have mean 0 and deviation 1; by default the labelled ones.
        start_from: folder of an earlier reward model to continue from; otherwise fresh from `seed`.
        role: name of the adapter; two reward models on one base need two names.

    Raises:
        InvalidInput: nothing to learn from.
    """
    units = units_of(pairs, thumbs, ratings)
    if not units:
        raise InvalidInput("There are neither pairs nor thumbs nor ratings", field="pairs")
    if start_from is None:
        base.open(role, seed)
        known: dict[str, Cohort] = {}
        known_scale: RatingScale | None = None
        eta = config.initial_tie_threshold
    else:
        earlier = RewardModel.load(base, start_from, role=role)
        known, known_scale = earlier.cohorts, earlier.ratings
        eta = earlier.tie_threshold or config.initial_tie_threshold
    cohorts = {name: known.get(name, Cohort(1.0, 0.0)) for name in {item.cohort for item in thumbs} | set(known)}
    extras = Extras(cohorts, eta, (item.group for item in ratings), known_scale).to(base.device)
    extras.hold(units)
    has_ties = any(pair.tie for pair in pairs)
    if start_from is None:
        _start_from_probe(base, role, units, extras, config, progress)
    _fit(base, role, units, extras, has_ties, config, seed, progress)
    if not reference:
        reference = [answer for unit in units for answer in unit.answers]
    scale = extras.rating_scale() or known_scale
    rated = {} if scale is None else {item.cohort: scale.cohort() for item in ratings}
    model = RewardModel(
        base=base,
        role=role,
        mean=0.0,
        deviation=1.0,
        clip=config.score_clip,
        tie_threshold=float(extras.log_eta.detach().exp()) if has_ties else 0.0,
        cohorts=rated | extras.cohorts(),
        ratings=scale,
        pooling=config.pooling,
        token_budget=config.micro_batch_tokens,
    )
    return standardise(model, reference)


def _start_from_probe(
    base: SharedBase,
    role: str,
    units: Sequence[Unit],
    extras: Extras,
    config: RewardConfig,
    progress: Progress,
) -> None:
    """Set head, cohorts and tie threshold to those of a linear probe; the fresh adapter changes nothing yet."""
    answers = list(dict.fromkeys(answer for unit in units for answer in unit.answers))
    place = {answer: row for row, answer in enumerate(answers)}
    states = pooled_states(
        base, answers, config.pooling, config.micro_batch_tokens, stage="reward_probe", progress=progress
    )
    pairs = [
        ProbePair(place[unit.answers[chosen]], place[unit.answers[rejected]], tie, weight, unit.group)
        for unit in units
        for chosen, rejected, tie, weight in unit.pairs
    ]
    thumbs = [
        ProbeThumb(
            place[one.prompt_ids, one.answer_ids], one.liked, one.weight, one.group, extras.names.index(one.cohort)
        )
        for unit in units
        if (one := unit.thumb) is not None
    ]
    data = ProbeData.of(states, pairs, thumbs, _probe_ratings(units, place, extras))
    probe = fit_probe(
        data,
        ProbeWeights(config.thumbs_coefficient, config.centring_coefficient, config.rater_deviation),
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
        if probe.ratings is not None:
            extras.ratings.copy_(probe.ratings)


def _probe_ratings(units: Sequence[Unit], place: Mapping[TokenPair, int], extras: Extras) -> ProbeRatings | None:
    found = [unit.rating for unit in units if unit.rating is not None]
    if not found:
        return None
    return ProbeRatings(
        answers=torch.tensor([place[item.prompt_ids, item.answer_ids] for item in found]),
        stars=torch.tensor([item.stars for item in found]),
        weights=torch.tensor([item.weight for item in found], dtype=torch.float32),
        raters=torch.tensor([extras.raters[item.group] for item in found]),
        voters=torch.tensor([voter_number(item.group) for item in found]),
        count=len(extras.raters),
    )


def _fit(
    base: SharedBase,
    role: str,
    units: Sequence[Unit],
    extras: Extras,
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
    share = Share.of(units, per_epoch, config)
    done = 0
    for _ in range(config.epochs):
        order = torch.randperm(len(units), generator=generator).tolist()
        for first in range(0, len(order), config.batch_sets):
            factor = schedule(done / total, config.warmup_fraction)
            set_rates(optimiser, [rate * factor for rate in rates])
            chosen = [units[i] for i in order[first : first + config.batch_sets]]
            metrics = _accumulate(base, role, chosen, share, extras, has_ties, config)
            metrics["grad_norm"] = clipped_step(optimiser, config.max_grad_norm)
            done += 1
            progress("reward_model", done, total, metrics)
    log.info("reward model: %d steps on %d sets", done, len(units))


def _accumulate(
    base: SharedBase,
    role: str,
    units: Sequence[Unit],
    share: Share,
    extras: Extras,
    has_ties: bool,
    config: RewardConfig,
) -> dict[str, float]:
    """Add up the gradient of one optimiser step; returns its loss and the share of pairs ordered rightly."""
    total, right, judged = 0.0, 0, 0
    for places in base.groups([unit.answers for unit in units], config.micro_batch_tokens):
        group = [units[place] for place in places]
        answers = [answer for unit in group for answer in unit.answers]
        with base.role(role):
            scores = base.scalar(role, base.batch(answers, range(len(answers))), config.pooling)
        loss = share.centring * (scores**2).sum()
        chosen, rejected, ties, weights = pair_index(group, base.device)
        if chosen.numel():
            margin = scores[chosen] - scores[rejected]
            eta = extras.log_eta.exp() if has_ties else torch.zeros((), device=base.device)
            loss = loss + share.pairs * (weights * pair_losses(margin, ties, eta)).sum()
            right += int(((margin > 0) & ~ties).sum())
            judged += int((~ties).sum())
        loss = loss + share.verdicts * extras.thumbs_loss(group, scores)
        if any(unit.rating for unit in group):
            loss = loss + share.verdicts * extras.ratings_loss(group, scores, share, config.rater_deviation)
        torch.autograd.backward(loss)
        total += float(loss.detach())
    return {"loss": total, "train_accuracy": right / judged} if judged else {"loss": total}
