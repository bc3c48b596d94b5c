"""What candidate and parent are put through alike: prompts to answer, suites, judged answers to be valued on.

Knows the learner's model and one turn's questions; knows nothing of thresholds, files or versions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from trainer.data import JudgedAnswer
from trainer.gates.measure import PolicyMeasurement, measure_policy
from trainer.gates.value import Like, PolicyOnLog, ValueComparison, compare_on_log, measure_on_log
from trainer.models.adapter import load_role
from trainer.models.base import POLICY, SharedBase
from trainer.settings import TrainerSettings
from trainer.suites.cases import Suites
from trainer.suites.run import SuiteAnswers, answer_suite


@dataclass(frozen=True)
class Seen:
    """What was seen of one policy."""

    measurement: PolicyMeasurement
    answers: SuiteAnswers
    on_log: PolicyOnLog | None
    """None where too few answers were judged."""


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

    def value(self, candidate: Seen, parent: Seen) -> ValueComparison | None:
        """Both policies' value on the judged answers; None where too few were judged."""
        if candidate.on_log is None or parent.on_log is None:
            return None
        answers = [(one.answer.prompt_ids, one.answer.answer_ids) for one in self._judged]
        return compare_on_log(
            self._judged,
            self._like(answers, [one.cohort for one in self._judged]),
            candidate.on_log,
            parent.on_log,
            cap=self._settings.gates.max_value_ratio,
            confidence=self._settings.gates.confidence,
            seed=self._settings.seed,
        )
