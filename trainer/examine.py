"""What candidate and parent are put through alike: prompts to answer, suites, judged answers to be valued on.

Knows the learner's model and one turn's questions; knows nothing of thresholds, files or versions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from trainer.data import JudgedAnswer, TokenPair
from trainer.gates.measure import PolicyMeasurement, measure_policy
from trainer.gates.slices import SliceGain, slice_values
from trainer.gates.value import Like, PolicyOnLog, ValueComparison, compare_on_log, measure_on_log
from trainer.models.adapter import load_role
from trainer.models.base import POLICY, SharedBase
from trainer.settings import TrainerSettings
from trainer.suites.loading import Suites
from trainer.suites.run import SuiteAnswers, answer_suite


@dataclass(frozen=True)
class Seen:
    """What was seen of one policy."""

    measurement: PolicyMeasurement
    answers: SuiteAnswers
    on_log: PolicyOnLog | None
    """None where too few answers were judged."""

    @property
    def fresh(self) -> tuple[TokenPair, ...]:
        """All answers that it was made to sample, with their prompts; every policy's are to the same, in one order."""
        return self.measurement.fresh + (self.on_log.own if self.on_log is not None else ())


class Examiner:
    """Puts the same questions to one policy after the other, in the role `policy` of one base.

    Args:
        prompts: token ids, for length, entropy and KL.
        judged: of held-out people; used only where there are enough of them to tell anything.
        like: the reward model's probability that an answer is liked.
    """

    def __init__(
        self,
        base: SharedBase,
        tokenizer: PreTrainedTokenizerBase,
        settings: TrainerSettings,
        suites: Suites,
        prompts: Sequence[tuple[int, ...]],
        judged: Sequence[JudgedAnswer],
        like: Like,
    ) -> None:
        self._base = base
        self._tokenizer = tokenizer
        self._settings = settings
        self._suites = suites
        self._prompts = prompts
        self._like = like
        gates, people = settings.gates, {one.group for one in judged}
        enough = len(judged) >= gates.min_judged_answers and len(people) >= gates.min_judging_people
        self._judged = judged[-gates.judged_answers :] if enough else ()

    def examine(self, adapter: Path | None) -> Seen:
        """Look at the policy of an adapter's folder, which stays loaded; None is the frozen base."""
        gates, role = self._settings.gates, None if adapter is None else POLICY
        if adapter is not None:
            load_role(self._base, POLICY, adapter)
        measurement = measure_policy(
            self._base,
            role,
            self._prompts[: gates.prompts],
            max_new_tokens=gates.max_new_tokens,
            batch_size=gates.batch_size,
            token_budget=self._settings.learner.micro_batch_tokens,
            seed=self._settings.seed,
        )
        ability, red_team = (
            answer_suite(
                self._base,
                role,
                self._tokenizer,
                cases,
                max_new_tokens=self._settings.suites.max_new_tokens,
                batch_size=gates.batch_size,
            )
            for cases in (self._suites.ability, self._suites.red_team)
        )
        return Seen(measurement, SuiteAnswers(ability, red_team), self._on_log(role))

    def _on_log(self, role: str | None) -> PolicyOnLog | None:
        if not self._judged:
            return None
        gates = self._settings.gates
        return measure_on_log(
            self._base,
            role,
            self._judged,
            self._like,
            max_new_tokens=gates.max_new_tokens,
            batch_size=gates.batch_size,
            token_budget=self._settings.learner.micro_batch_tokens,
            seed=self._settings.seed,
        )

    @cached_property
    def _modelled(self) -> Tensor:
        """The reward model's probability that each judged answer is liked."""
        answers = [(one.answer.prompt_ids, one.answer.answer_ids) for one in self._judged]
        return self._like(answers, [one.cohort for one in self._judged])

    def value(self, candidate: Seen, parent: Seen) -> ValueComparison | None:
        """Both policies' value on the judged answers; None where too few were judged."""
        if candidate.on_log is None or parent.on_log is None:
            return None
        gates = self._settings.gates
        return compare_on_log(
            self._judged,
            self._modelled,
            candidate.on_log,
            parent.on_log,
            cap=gates.max_value_ratio,
            confidence=gates.confidence,
            seed=self._settings.seed,
        )

    def value_by_slice(self, candidate: Seen, parent: Seen) -> tuple[SliceGain, ...]:
        """The same for each slice that has enough judged answers of its own."""
        if candidate.on_log is None or parent.on_log is None:
            return ()
        gates, seed = self._settings.gates, self._settings.seed
        return slice_values(self._judged, self._modelled, candidate.on_log, parent.on_log, gates, seed)
