"""Rules over what was answered and said: too little of it, the wrong kind, or lost on the way. Pure.

Every rule looks at the join that the trainer itself would make now, so the doctor and the trainer never disagree.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from deploy.doctor.findings import Finding, blocks, note, slows, waits
from schemas.feedback import FeedbackReceived
from trainer.intake.facts import Known
from trainer.joining.exclusions import EXPLANATIONS, Reason
from trainer.joining.funnel import Funnel
from trainer.joining.join import Joined
from trainer.joining.words import liked
from trainer.settings import FeedbackSection
from trainer.snapshots.news import Mark, new_labels

MUCH = 0.5
"""Share of the words or answers from which a reason is worth naming."""
FEW = 10
"""Words below which shares say nothing."""

_EXPLORE = (
    "Set `[chat] exploration_share` of the server to e.g. 0.2: that share of the traffic is then sampled from the full "
    "distribution"
)
_REMEDIES: dict[Reason, str] = {
    Reason.TEMPERATURE_ZERO: f"{_EXPLORE}; or let the app ask for a temperature above 0.",
    Reason.TRUNCATED_SAMPLING: f"{_EXPLORE}; or send min_p 0. A model's generation_config.json may set it silently.",
    Reason.PENALTIES: f"{_EXPLORE}; or leave the penalties out of the requests.",
    Reason.MASKED: "Answers under a grammar, a forced tool call or a token list cannot train PPO; ask without one for "
    "some of the traffic.",
    Reason.OPAQUE: "Switch off speculation, watermarks and custom logits processors in `[engine] vllm_args`.",
    Reason.MISSING_LOGPROBS: "The engine gave no logprobs: look for errors of the recording seam in the server's log.",
    Reason.OTHER_LOGPROBS: "Set `logprobs-mode` to processed_logprobs in `[engine] vllm_args`, or leave it out.",
    Reason.CUT_OFF: "Raise max_tokens: answers end at their limit, or clients leave before the end.",
    Reason.SHADOW: "Shadow answers never train PPO.",
    Reason.HIDDEN: "Answers that nobody is shown never train PPO.",
    Reason.TOO_OLD: "Raise `[feedback] max_versions_behind`, or train in smaller steps (`min_new_labels`).",
    Reason.NO_CONSENT: "Send the header `attune-consent: train` where people agreed, or make API keys with "
    "`attune keys create --consent train`.",
    Reason.WRONG_BASE: "Server and trainer must have the same `model`, byte for byte.",
    Reason.NO_COMPLETION: "Completion events are lost on their way: the server's attune_events_dropped says why, "
    "and docs/runbooks/events-dropped.md what to do.",
    Reason.NOT_A_PREFERENCE: "Send thumbs, ratings, comparisons or corrections: comments and outcomes do not train.",
    Reason.CONTRADICTED: "People say opposite things of the same answers: look at how the buttons are placed.",
    Reason.QUARANTINED: "`attune raters list` says who and why; `attune raters release` takes it back.",
    Reason.RETRACTED: "People take their words back: look at how the buttons are placed.",
    Reason.MISMATCHED: "The client sends signals that do not fit their handles.",
    Reason.EMPTY: "Answers have no tokens: look at stop strings and max_tokens.",
}
_ORDERS = {"comparison", "ranking", "correction", "preference"}
"""Kinds of words, and of imported votes, that become pairs."""
# Passing or by design: no cause to worry.
_HARMLESS = frozenset({Reason.SEEN_BEFORE, Reason.OVER_CAP, Reason.WINDOW_OPEN, Reason.DUPLICATE, Reason.SUPERSEDED})


@dataclass(frozen=True)
class Evidence:
    """What the trainer would know now."""

    known: Known
    joined: Joined
    funnel: Funnel
    settings: FeedbackSection
    since: Mark | None
    """Up to where labels have counted; None before the first turn."""
    method: str = "ppo"
    """How the policy learns; PPO alone needs answers with true logprobs."""


def look_at_feedback(evidence: Evidence) -> Iterator[Finding]:
    """What keeps feedback from being learnt from, the gravest first."""
    funnel, settings = evidence.funnel, evidence.settings
    if not funnel.answered:
        yield blocks(
            "no_answers",
            "No answer of this policy lies on the log.",
            "Send chats to the server with a key whose consent is `store` or `train`; with `none` nothing is recorded.",
        )
        return
    if not evidence.known.feedback:
        yield blocks(
            "no_feedback",
            f"{funnel.answered} answers, and nobody has said anything of them.",
            "Send the handle of an answer with a thumb to POST /v1/feedback; see docs/api.md.",
        )
        return
    new = new_labels(evidence.joined, settings, settings.min_answers, evidence.since)
    if new < settings.min_new_labels:
        open_windows = funnel.excluded_feedback.get(Reason.WINDOW_OPEN, 0)
        waiting = f"; {open_windows} more wait for their window to pass" if open_windows else ""
        weigh = waits if evidence.since else blocks
        yield weigh(
            "few_labels",
            f"{new} new usable labels since the last turn, and a turn begins at {settings.min_new_labels}{waiting}.",
            "Gather more feedback, or lower `[feedback] min_new_labels`.",
        )
    yield from _lost_words(evidence)
    yield from _starved(evidence)
    yield from _voices(evidence)
    yield from _unheard_models(evidence)
    if funnel.quarantined:
        yield note(
            "quarantined",
            f"{funnel.quarantined} raters are quarantined; "
            f"{funnel.excluded_feedback.get(Reason.QUARANTINED, 0)} words of theirs are left out.",
            _REMEDIES[Reason.QUARANTINED],
        )
    if not funnel.displayed:
        yield note(
            "no_displayed",
            "No app reports which answers were shown.",
            "POST /v1/displayed when an answer is on the screen; silence can then be told from absence.",
        )


def _lost_words(evidence: Evidence) -> Iterator[Finding]:
    words, excluded = len(evidence.known.feedback), evidence.funnel.excluded_feedback
    weigh = blocks if not evidence.funnel.words else slows
    for name, count in sorted(excluded.items(), key=lambda item: -item[1]):
        reason = Reason(name)
        if reason in _HARMLESS or count < MUCH * words or (words < FEW and evidence.funnel.words):
            continue
        message = f"{count} of {words} words are left out: {EXPLANATIONS[reason]}."
        if reason is Reason.LATE:
            yield weigh("late_feedback", f"{message} {_lateness(evidence)}", _window_remedy(evidence))
        else:
            yield weigh(name, message, _REMEDIES.get(reason, ""))


def _delays(evidence: Evidence) -> list[int]:
    """Ms from the end of each answer spoken of to the word, sorted."""
    ends = {one.completion_id: one.finished_at for one in evidence.known.completions}
    refs = ((word.at, ref) for word in evidence.known.feedback for ref in _refs(word))
    return sorted(at - ends[ref] for at, ref in refs if ref in ends)


def _refs(word: FeedbackReceived) -> tuple[str, ...]:
    target = word.target
    if target.kind == "answer":
        return (target.completion_id,)
    return tuple(candidate.completion_id for candidate in target.candidates)


def _lateness(evidence: Evidence) -> str:
    delays = _delays(evidence)
    if not delays:
        return ""
    return (
        f"Half of all words come more than {delays[len(delays) // 2] / 1000:.0f} s after their answer; the window is "
        f"{evidence.settings.feedback_window_ms / 1000:g} s."
    )


def _window_remedy(evidence: Evidence) -> str:
    delays = _delays(evidence)
    if not delays:
        return "Raise `[feedback] feedback_window_ms`."
    ninth = delays[min(len(delays) - 1, 9 * len(delays) // 10)]
    return f"Raise `[feedback] feedback_window_ms`: {ninth + 1000} would take in nine of ten words."


def _starved(evidence: Evidence) -> Iterator[Finding]:
    funnel, settings = evidence.funnel, evidence.settings
    settled = funnel.answered - funnel.excluded_answers.get(Reason.WINDOW_OPEN, 0)
    if funnel.ppo >= settings.min_answers or not settled or evidence.method != "ppo":
        return
    yield blocks(
        "ppo_starved",
        f"PPO may learn from {funnel.ppo} of {settled} answers, and a turn needs {settings.min_answers}.",
        "The reasons follow."
        if funnel.excluded_answers
        else "Gather more answers, or lower `[feedback] min_answers`; "
        "`[learner] method` names ways that need none of them.",
    )
    for name, count in sorted(funnel.excluded_answers.items(), key=lambda item: -item[1]):
        reason = Reason(name)
        if reason not in _HARMLESS and count >= 0.1 * settled:
            which = "All" if count == settled else f"{count} of {settled}"
            yield blocks(
                f"ppo_{name}",
                f"{which} answers cannot train PPO: {EXPLANATIONS[reason]}.",
                _REMEDIES.get(reason, ""),
            )


def _unheard_models(evidence: Evidence) -> Iterator[Finding]:
    """Words of models weigh a share of what people said of their kind, which is nothing where people said nothing."""
    joined = evidence.joined
    people = {word.feedback.signal.kind for word in joined.words} | {vote.kind for vote in joined.imported}
    for name, kinds in (("comparisons", _ORDERS), ("thumbs", {"thumbs"}), ("ratings", {"rating"})):
        models = sum(word.feedback.signal.kind in kinds for word in joined.ai)
        if models and not people & kinds:
            yield slows(
                "unheard_models",
                f"{models} {name} of models have no weight: people gave none, and a model's weigh a share of theirs.",
                f"Ask people for {name} too.",
            )


def _voices(evidence: Evidence) -> Iterator[Finding]:
    words = evidence.joined.words
    if len(words) < FEW:
        return
    speakers = Counter(word.feedback.speaker() for word in words)
    most = speakers.most_common(1)[0][1]
    if most > MUCH * len(words):
        yield slows(
            "one_voice",
            f"One person said {most} of {len(words)} usable words: the policy learns their taste.",
            "Send `user` with every chat, so that people can be told apart, and ask more of them.",
        )
    verdicts = [good for word in words if (good := liked(word.feedback)) is not None]
    if len(verdicts) == len(words) and len(set(verdicts)) == 1:
        said = "good" if verdicts[0] else "bad"
        yield slows(
            "one_verdict",
            f"Every one of {len(words)} usable words calls its answer {said}: there is nothing to tell apart.",
            "Offer both thumbs as easily, or ask for comparisons (POST /v1/comparisons).",
        )
