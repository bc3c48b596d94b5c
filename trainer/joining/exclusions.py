"""Why a word of feedback or an answer is not learnt from: reasons by name, each tied to an id, so that one thumb can be
traced.

Knows the reasons; they are found in `join`, `voices`, `contradictions` and `eligibility` beside it, in
`trainer.snapshots.snapshot`, and, once the base is in memory, in `trainer.learn.replay`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Literal


class Reason(StrEnum):
    """Why something is left out."""

    # The answer is not there, or not yet.
    NO_COMPLETION = "no_completion"
    WINDOW_OPEN = "window_open"
    UNKNOWN_CHOICE = "unknown_choice"
    EMPTY = "empty"
    # The person does not want it, or may not say it.
    ERASED = "erased"
    EXPIRED = "expired"
    NO_CONSENT = "no_consent"
    RETRACTED = "retracted"
    FOREIGN_RETRACTION = "foreign_retraction"
    UNKNOWN_FEEDBACK = "unknown_feedback"
    # The word does not count.
    LATE = "late"
    DUPLICATE = "duplicate"
    SUPERSEDED = "superseded"
    MISMATCHED = "mismatched"
    NOT_A_PREFERENCE = "not_a_preference"
    CONTRADICTED = "contradicted"
    QUARANTINED = "quarantined"
    # The logged numbers are not those of plain sampling from this base's policy.
    WRONG_BASE = "wrong_base"
    TEMPERATURE_ZERO = "temperature_zero"
    TRUNCATED_SAMPLING = "truncated_sampling"
    PENALTIES = "penalties"
    MASKED = "masked"
    OPAQUE = "opaque"
    MISSING_LOGPROBS = "missing_logprobs"
    OTHER_LOGPROBS = "other_logprobs"
    # What top_p or top_k kept could not be recomputed.
    REPLAY_MISMATCH = "replay_mismatch"
    REPLAY_TOO_WIDE = "replay_too_wide"
    REPLAY_UNAVAILABLE = "replay_unavailable"
    # PPO should not learn from it for another cause.
    CUT_OFF = "cut_off"
    SHADOW = "shadow"
    HIDDEN = "hidden"
    TOO_OLD = "too_old"
    # The snapshot chose others.
    SEEN_BEFORE = "seen_before"
    HELD_OUT = "held_out"
    OVER_CAP = "over_cap"
    OVER_SHARE = "over_share"


EXPLANATIONS: MappingProxyType[Reason, str] = MappingProxyType(
    {
        Reason.NO_COMPLETION: "its answer has not come on the log; it waits",
        Reason.WINDOW_OPEN: "the feedback window of its answer has not passed; it waits",
        Reason.UNKNOWN_CHOICE: "its completion has no such choice",
        Reason.EMPTY: "the answer has no tokens",
        Reason.ERASED: "the person was erased",
        Reason.EXPIRED: "it, or the answer it speaks of, was kept as long as its retention class allows",
        Reason.NO_CONSENT: "the person has not consented to training, or has withdrawn",
        Reason.RETRACTED: "the person took it back",
        Reason.FOREIGN_RETRACTION: "it would take back another person's word",
        Reason.UNKNOWN_FEEDBACK: "it takes back a word that is not on the log; it waits",
        Reason.LATE: "it came after the feedback window of its answer",
        Reason.DUPLICATE: "the person said the same again later, which counts",
        Reason.SUPERSEDED: "the person said something else later, which counts",
        Reason.MISMATCHED: "what was said does not fit what it was said of",
        Reason.CONTRADICTED: "the person said the opposite of the same answers elsewhere",
        Reason.QUARANTINED: "the person's words are not believed: `attune raters show` says why, `release` undoes it",
        Reason.NOT_A_PREFERENCE: "comments and outcomes without aspects do not train",
        Reason.WRONG_BASE: "the answer came from another base model",
        Reason.TEMPERATURE_ZERO: "decoded greedily (temperature 0 or top_k 1): the answer was not sampled",
        Reason.TRUNCATED_SAMPLING: "min_p cut the distribution that it was sampled from, which is not replayed",
        Reason.PENALTIES: "a presence, frequency or repetition penalty changed the distribution",
        Reason.MASKED: "a grammar, forced tool call, bias, min_tokens or a token list changed the distribution",
        Reason.OPAQUE: "speculation, a watermark or a custom processor had a say in the tokens",
        Reason.MISSING_LOGPROBS: "the logprob of a token is missing or not finite",
        Reason.OTHER_LOGPROBS: "the logged logprobs are not those of the distribution sampled from",
        Reason.REPLAY_MISMATCH: "the trainer, given what top_p and top_k kept, finds another logprob than was logged",
        Reason.REPLAY_TOO_WIDE: "top_p kept more tokens than `ppo.replay_max_kept`",
        Reason.REPLAY_UNAVAILABLE: "the adapter that answered, with top_p or top_k, cannot be loaded any more",
        Reason.CUT_OFF: "the answer did not come to its end, or nobody was there to see it",
        Reason.SHADOW: "a shadow answer, shown to nobody",
        Reason.HIDDEN: "the answer was not shown",
        Reason.TOO_OLD: "the version that answered is too many versions old",
        Reason.SEEN_BEFORE: "PPO had it in an earlier snapshot, and there are new ones",
        Reason.HELD_OUT: "the reward model is judged on this person, and imported votes never judge",
        Reason.OVER_CAP: "the snapshot was full of newer ones",
        Reason.OVER_SHARE: "newer words of the same person fill the share of a snapshot that one person may have",
    }
)


@dataclass(frozen=True, order=True)
class Exclusion:
    """One thing left out for one reason. An answer may be left out for several."""

    item: Literal["answer", "feedback"]
    id: str
    """Feedback id, or `COMPLETION_ID/CHOICE`."""
    reason: Reason


def count_reasons(exclusions: Iterable[Exclusion], item: Literal["answer", "feedback"]) -> dict[str, int]:
    """How many of `item` were left out, by reason, in the order of the names."""
    counted = Counter(str(exclusion.reason) for exclusion in exclusions if exclusion.item == item)
    return dict(sorted(counted.items()))
