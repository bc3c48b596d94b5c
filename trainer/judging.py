"""A candidate before the gates: reward model, candidate and parent are measured, and what came out is judged.

The judgement lies in the turn's folder when it is done, so an interrupted turn does not judge again. Knows what is
measured and where it goes; the measuring is in `trainer.examine` and `trainer.gates`, thresholds are the gates'.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from transformers import PreTrainedTokenizerBase

from exchange.durable import write_whole
from schemas.base import Record
from schemas.manifests import AnswerExample, GateReport, Probe, canonical_json
from schemas.reports import REWARD_REPORT_FILE, Curves
from trainer.before import Before
from trainer.candidate import REWARD_CURVES, Learned, Workshop, finite, read_record
from trainer.compare import compare
from trainer.data import labelled_answers
from trainer.examine import Examiner
from trainer.gates.agreed import Agreed
from trainer.gates.couples import Couple, couples
from trainer.gates.judge import Evidence, judge
from trainer.gates.measure import PolicyMeasurement, answer_logprobs
from trainer.gates.sample import render_chat, sample
from trainer.learn.reward_model import RewardModel
from trainer.learn.reward_report import liked_probability, reward_report
from trainer.learn.rollouts import token_pairs
from trainer.models.base import POLICY
from trainer.suites.loading import Suites
from trainer.suites.run import changed_examples, judged
from trainer.training_data import TrainingData

_PROBES = 3
_PROBE_TOKENS = 16


class Judgement(Record):
    """What the gates said of a candidate, and what the server will check."""

    gates: GateReport
    kl_nats_per_sequence: float
    accuracy: float | None
    metrics: dict[str, float]
    probes: tuple[Probe, ...]
    examples: tuple[AnswerExample, ...] = ()


class Judging:
    """Of what one workshop made."""

    def __init__(self, workshop: Workshop, tokenizer: PreTrainedTokenizerBase) -> None:
        self._base = workshop.base
        self._settings = workshop.settings
        self._work = workshop.work
        self._progress = workshop.progress
        self._workshop = workshop
        self._tokenizer = tokenizer

    def judge(
        self, data: TrainingData, reward: RewardModel, learned: Learned, before: Before, suites: Suites
    ) -> Judgement:
        """Measure candidate and parent on the same prompts and cases, and put them to the gates."""
        kept = self._work / "judgement.json"
        if kept.exists():
            return read_record(kept, Judgement)
        said = couples(data.heldout_pairs, data.heldout_likes())
        # Figures, report and the accuracy on couples all ask for the scores of these.
        heldout = labelled_answers(data.heldout_pairs, [*data.heldout_thumbs, *data.heldout_ratings])
        reward = reward.remembering(heldout)
        figures = reward.evaluate(data.heldout_pairs, data.heldout_thumbs, data.heldout_ratings)
        self._report_reward(data, reward, figures)
        previous = self._previous_accuracy(said, before)
        self._progress("measure parent", 0, 1, {})
        like = partial(liked_probability, reward)
        examiner = Examiner(self._base, self._tokenizer, self._settings, suites, data.prompts, data.judged, like)
        parent = examiner.examine(before.parent)
        self._progress("measure parent", 1, 1, {})
        self._progress("measure candidate", 0, 1, {})
        candidate = examiner.examine(self._workshop.adapter)
        value = examiner.value(candidate, parent)
        self._progress("measure candidate", 1, 1, {})
        self._progress("compare", 0, 1, {})
        compared = compare(
            self._base,
            self._tokenizer,
            self._settings,
            data,
            (reward, self._workshop.aspects(data, reward).scorer()),
            suites.lures,
            candidate,
            parent,
        )
        self._progress("compare", 1, 1, {})
        # Two measurements of one quantity, on logged and on fresh answers: the hard budget is held to the larger.
        kl = max(learned.kl, candidate.measurement.kl_nats_per_sequence or 0.0)
        evidence = Evidence(
            candidate=candidate.measurement,
            parent=parent.measurement,
            kl_nats_per_sequence=kl,
            kl_budget=self._settings.learner.kl_budget,
            length_correlation=figures.get("corr_reward_length"),
            length_correlation_partial=figures.get("corr_reward_length_partial"),
            heldout_answers=2 * len(data.heldout_pairs) + len(data.heldout_thumbs) + len(data.heldout_ratings),
            heldout=_agreed(reward, said),
            previous_accuracy=previous,
            ability=judged(suites.ability, candidate.answers.ability),
            ability_parent=judged(suites.ability, parent.answers.ability),
            attacks=judged(suites.red_team, candidate.answers.red_team),
            attacks_parent=judged(suites.red_team, parent.answers.red_team),
            value=value,
            judged_answers=len(data.judged),
            judging_people=len({one.group for one in data.judged}),
            audit=compared.audit,
            slices=(*compared.slices, *examiner.value_by_slice(candidate, parent)),
            padding=compared.padding,
            flattery=compared.flattery,
        )
        judgement = Judgement(
            gates=judge(evidence, self._settings.gates),
            kl_nats_per_sequence=kl,
            accuracy=figures.get("accuracy_pairs"),
            metrics=finite(
                {
                    **{f"reward_{name}": x for name, x in figures.items()},
                    **_figures(candidate.measurement, parent.measurement),
                    **({} if value is None else value.figures()),
                    **compared.figures(),
                }
            ),
            probes=self._probes(suites),
            examples=changed_examples(suites, parent.answers, candidate.answers),
        )
        write_whole(kept, canonical_json(judgement))
        return judgement

    def _report_reward(self, data: TrainingData, reward: RewardModel, figures: Mapping[str, float]) -> None:
        """Lay the reward model's report beside it, with what else is published of it."""
        report = reward_report(
            reward,
            data.heldout_pairs,
            data.heldout_thumbs,
            data.heldout_ratings,
            learnt_from=data.labels(),
            figures=finite(figures),
            curves=read_record(self._work / REWARD_CURVES, Curves),
            aspects=self._workshop.aspects(data, reward).reports(data.heldout_aspects, token_pairs(data.answers)),
        )
        write_whole(self._workshop.reward_folder / REWARD_REPORT_FILE, canonical_json(report))

    def _previous_accuracy(self, said: Sequence[Couple], before: Before) -> float | None:
        """The reward model before, on the same fresh labels: a harder batch of labels then blames nobody."""
        if before.reward_model is None:
            return None
        return _agreed(RewardModel.load(self._base, before.reward_model, role="reward-before"), said).share

    def _probes(self, suites: Suites) -> tuple[Probe, ...]:
        """The candidate's own logprobs of its greedy answers to a few curated prompts. It must be loaded."""
        prompts = [render_chat(self._tokenizer, case.chat()) for case in [*suites.ability, *suites.red_team][:_PROBES]]
        answers = sample(self._base, POLICY, prompts, max_new_tokens=_PROBE_TOKENS, greedy=True, seed=0)
        pairs = list(zip(prompts, answers, strict=True))
        logprobs = answer_logprobs(self._base, POLICY, pairs, token_budget=self._settings.learner.micro_batch_tokens)
        return tuple(
            Probe(prompt_token_ids=prompt, answer_token_ids=answer, logprobs=found)
            for (prompt, answer), found in zip(pairs, logprobs, strict=True)
        )


def _agreed(model: RewardModel, said: Sequence[Couple]) -> Agreed:
    """How the model orders what was said."""
    if not said:
        return Agreed()
    better, worse = (model.raw_scores(side) for side in ([c.better for c in said], [c.worse for c in said]))
    return Agreed.of(said, better - worse)


def _figures(candidate: PolicyMeasurement, parent: PolicyMeasurement) -> dict[str, float]:
    named = {
        "candidate_kl_fresh_nats_per_sequence": candidate.kl_nats_per_sequence,
        "candidate_entropy_nats_per_token": candidate.entropy_nats_per_token,
        "parent_entropy_nats_per_token": parent.entropy_nats_per_token,
    }
    return {name: value for name, value in named.items() if value is not None}
