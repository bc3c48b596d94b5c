"""Which answers offline PPO may learn from: those whose logged logprob is the true probability of the sampling done.

Pure rules over facts; each exclusion by name, all that apply. Beam search needs no rule: the server refuses it. top_p
and top_k are refused rather than replayed: the trainer does not recompute the mass that truncation kept, and ignoring
it biases the ratio.
"""

from __future__ import annotations

from dataclasses import dataclass

from schemas.completion import Arm, Shown
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
        Reason.TEMPERATURE_ZERO: sampling.temperature == 0,
        Reason.TRUNCATED_SAMPLING: sampling.top_p != 1 or sampling.top_k != 0 or sampling.min_p != 0,
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
        Reason.OTHER_LOGPROBS: not _are_of_the_sampling(completion.logprobs_mode, sampling.temperature),
        Reason.CUT_OFF: choice.finish_reason != "stop" or not choice.seen,
        Reason.SHADOW: completion.arm is Arm.SHADOW,
        Reason.HIDDEN: completion.shown is Shown.HIDDEN,
        Reason.TOO_OLD: scope.current_version - completion.version > scope.max_versions_behind,
    }
    return tuple(reason for reason, applies in rules.items() if applies)


def _are_of_the_sampling(mode: str, temperature: float) -> bool:
    # Raw logprobs are those before the temperature, which changes nothing at 1.
    return mode == "processed_logprobs" or (mode == "raw_logprobs" and temperature == 1)
