"""Which answers offline PPO may learn from: those whose logged logprob is the true probability of the sampling done.

Pure rules over facts; each exclusion by name, all that apply. Beam search needs no rule: the server refuses it. Answers
sampled with top_p or top_k pass: the learner recomputes what truncation kept, and leaves out where it cannot
(`trainer.learn.replay`). min_p is not replayed, and ignoring it would bias the ratio.
"""

from __future__ import annotations

from dataclasses import dataclass

from schemas.completion import Arm, SamplingParameters, Shown
from trainer.intake.facts import Answer
from trainer.joining.exclusions import Reason

MAX_VERSIONS_BEHIND = 4


@dataclass(frozen=True)
class Scope:
    """What is trained now, against which logged answers are judged."""

    base_fingerprint: str
    current_version: int
    """The version that training continues from."""
    max_versions_behind: int = MAX_VERSIONS_BEHIND
    """Answers of older versions do not train PPO."""


def ppo_reasons(answer: Answer, scope: Scope) -> tuple[Reason, ...]:
    """Why PPO must not learn from this answer; empty where it may. Consent and erasure are judged elsewhere."""
    completion, choice, sampling = answer.completion, answer.choice, answer.completion.sampling
    rules = {
        Reason.TEMPERATURE_ZERO: sampling.temperature == 0 or sampling.top_k == 1,
        Reason.TRUNCATED_SAMPLING: sampling.min_p != 0,
        Reason.PENALTIES: (sampling.presence_penalty, sampling.frequency_penalty, sampling.repetition_penalty)
        != (0, 0, 1),
        Reason.MASKED: sampling.logit_bias
        or sampling.bad_words
        or sampling.allowed_token_ids
        or sampling.min_tokens != 0
        or sampling.structured_output
        or sampling.forced_tool,
        Reason.OPAQUE: sampling.opaque,
        Reason.MISSING_LOGPROBS: not choice.has_logprobs(),
        Reason.OTHER_LOGPROBS: not _are_of_the_sampling(completion.logprobs_mode, sampling),
        Reason.CUT_OFF: choice.finish_reason != "stop" or not choice.seen,
        Reason.SHADOW: completion.arm is Arm.SHADOW,
        Reason.HIDDEN: completion.shown is Shown.HIDDEN,
        Reason.TOO_OLD: scope.current_version - completion.version > scope.max_versions_behind,
    }
    return tuple(reason for reason, applies in rules.items() if applies)


def _are_of_the_sampling(mode: str, sampling: SamplingParameters) -> bool:
    # Raw logprobs are those before temperature and truncation, which change nothing at 1, 1 and 0.
    plain = sampling.temperature == 1 and sampling.top_p == 1 and sampling.top_k == 0
    return mode == "processed_logprobs" or (mode == "raw_logprobs" and plain)
