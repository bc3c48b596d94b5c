"""Made-up events for tests: sealed completions, feedback of every kind, consents, erasures.

Times are in ms from `START`. Everything has a default; content is sealed under keys of `Maker.keys`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from exchange.keys.memory import MemoryKeys
from schemas.completion import (
    Arm,
    ChoiceContent,
    CompletionChoice,
    CompletionContent,
    CompletionRecorded,
    Consent,
    ConsentLevel,
    SamplingParameters,
    Shown,
)
from schemas.events import AnswerDisplayed, ConsentChanged, ErasureRequested
from schemas.feedback import (
    AnswerTarget,
    CandidateRef,
    Comment,
    Comparison,
    ComparisonTarget,
    Correction,
    FeedbackContent,
    FeedbackReceived,
    Outcome,
    Ranking,
    Rating,
    Retraction,
    Signal,
    Thumbs,
)
from schemas.raters import RaterEvidence, RaterJudged
from schemas.sealed import Sealed, seal

START = 1_790_000_000_000
BASE = "ab" * 32
TEMPLATE = "cd" * 32
PLAIN = SamplingParameters(temperature=1.0, top_p=1.0, top_k=0, min_p=0.0)
PROMPT = (1, 2, 3)
ANSWER = (10, 11, 12)


class Maker:
    """Makes events of one policy and tenant. Ids count up by kind unless given."""

    def __init__(self, policy: str = "support", tenant: str = "acme") -> None:
        self.keys = MemoryKeys()
        self.policy = policy
        self.tenant = tenant
        self._made: dict[str, int] = {}

    def completion(
        self,
        at: int = 0,
        *,
        user: str | None = "ann",
        answers: Sequence[Sequence[int]] = (ANSWER,),
        prompt: Sequence[int] = PROMPT,
        version: int = 3,
        id: str | None = None,
        conversation: str | None = None,
        consent: ConsentLevel = ConsentLevel.TRAIN,
        finish_reason: str = "stop",
        seen: bool = True,
        logprobs: bool = True,
        arm: Arm = Arm.STABLE,
        shown: Shown = Shown.DIRECT,
        sampling: SamplingParameters = PLAIN,
        **more: Any,
    ) -> CompletionRecorded:
        """A completion that ended `at` ms after START, with one choice for each of `answers` (token ids)."""
        name = id or self._next("cmpl")
        conversation = conversation or f"conv_{name}"
        content = CompletionContent(
            messages=({"role": "user", "content": "hello"},),
            prompt_token_ids=prompt,
            choices=tuple(
                ChoiceContent(index=index, token_ids=ids, text="t" * len(ids)) for index, ids in enumerate(answers)
            ),
        )
        choices = tuple(
            CompletionChoice(
                index=index,
                token_count=len(ids),
                logprobs=[-0.5 - number / 8 for number in range(len(ids))] if logprobs else None,
                finish_reason=finish_reason,
                seen=seen,
            )
            for index, ids in enumerate(answers)
        )
        fields: dict[str, Any] = {
            "id": f"ev_{name}",
            "at": START + at,
            "policy": self.policy,
            "tenant": self.tenant,
            "completion_id": name,
            "protocol": "chat.completions",
            "version": version,
            "adapter_digest": None,
            "base_fingerprint": BASE,
            "chat_template_hash": TEMPLATE,
            "arm": arm,
            "shown": shown,
            "api_key_id": "app",
            "end_user": user,
            "conversation": conversation,
            "consent": Consent(level=consent, source="key"),
            "language": "en",
            "domain": "orders",
            "sampling": sampling,
            "logprobs_mode": "processed_logprobs",
            "started_at": START + at - 500,
            "finished_at": START + at,
            "prompt_token_count": len(prompt),
            "choices": choices,
            "content": self.sealed(user or conversation, f"ev_{name}", content.model_dump_json()),
        }
        return CompletionRecorded.model_validate(fields | more)

    def feedback(
        self,
        signal: Signal,
        target: CompletionRecorded | Sequence[CompletionRecorded],
        at: int = 1_000,
        *,
        user: str | None = "ann",
        id: str | None = None,
        choice: int = 0,
        correction: str | None = None,
        **more: Any,
    ) -> FeedbackReceived:
        """Feedback on one completion's choice, or on several completions as candidates of a comparison."""
        name = id or self._next("fb")
        first = target if isinstance(target, CompletionRecorded) else target[0]
        content = None
        if correction is not None:
            text = FeedbackContent(correction=correction).model_dump_json()
            content = self.sealed(user or first.conversation, name, text)
        fields: dict[str, Any] = {
            "id": name,
            "at": START + at,
            "policy": self.policy,
            "tenant": self.tenant,
            "conversation": first.conversation,
            "end_user": user,
            "api_key_id": "app",
            "target": _target(target, choice),
            "signal": signal,
            "content": content,
        }
        return FeedbackReceived.model_validate(fields | more)

    def thumb(self, target: CompletionRecorded, up: bool = True, at: int = 1_000, **more: Any) -> FeedbackReceived:
        """A thumb on a choice."""
        return self.feedback(Thumbs(value="up" if up else "down"), target, at, **more)

    def rating(self, target: CompletionRecorded, stars: int, at: int = 1_000, **more: Any) -> FeedbackReceived:
        """Stars on a choice."""
        return self.feedback(Rating(stars=stars), target, at, **more)

    def comparison(
        self, targets: Sequence[CompletionRecorded], winner: int | str = 0, at: int = 1_000, **more: Any
    ) -> FeedbackReceived:
        """A verdict on candidates: the index of the winner, `tie` or `both_bad`."""
        won = isinstance(winner, int)
        signal = Comparison(verdict="winner" if won else winner, winner=winner if won else None)
        return self.feedback(signal, targets, at, **more)

    def ranking(
        self, targets: Sequence[CompletionRecorded], order: Sequence[Sequence[int]], at: int = 1_000, **more: Any
    ) -> FeedbackReceived:
        """An order of candidates, best first."""
        return self.feedback(Ranking(order=order), targets, at, **more)

    def correction(self, target: CompletionRecorded, text: str, at: int = 1_000, **more: Any) -> FeedbackReceived:
        """What a choice should have been."""
        return self.feedback(Correction(), target, at, correction=text, **more)

    def comment(self, target: CompletionRecorded, at: int = 1_000, **more: Any) -> FeedbackReceived:
        """Free text alone."""
        return self.feedback(Comment(), target, at, **more)

    def outcome(self, target: CompletionRecorded, name: str = "resolved", at: int = 1_000) -> FeedbackReceived:
        """What came of a choice."""
        return self.feedback(Outcome(name=name, value=True), target, at)

    def retraction(
        self, word: FeedbackReceived, at: int = 2_000, *, user: str | None = None, id: str | None = None
    ) -> FeedbackReceived:
        """The same speaker (or `user`) takes a word back."""
        update = {"signal": Retraction(), "supersedes": word.id, "at": START + at, "content": None}
        return word.model_copy(update={**update, "id": id or self._next("fb"), "end_user": user or word.end_user})

    def displayed(self, targets: Sequence[CompletionRecorded], at: int = 500) -> AnswerDisplayed:
        """Answers shown in the chat."""
        return AnswerDisplayed(
            id=self._next("disp"),
            at=START + at,
            policy=self.policy,
            tenant=self.tenant,
            conversation=targets[0].conversation,
            end_user=targets[0].end_user,
            surface="chat",
            candidates=tuple(_ref(target) for target in targets),
        )

    def consent(
        self, user: str, level: ConsentLevel, at: int = 3_000, *, policy: str | None = None, id: str | None = None
    ) -> ConsentChanged:
        """A person changes their mind about their data."""
        return ConsentChanged(
            id=id or self._next("cons"),
            at=START + at,
            policy=policy or self.policy,
            tenant=self.tenant,
            end_user=user,
            level=level,
            actor="app",
        )

    def erasure(self, subject: str, at: int = 5_000, *, policy: str | None = None) -> ErasureRequested:
        """A person wants to be forgotten; their key still stands."""
        return ErasureRequested(
            id=self._next("er"),
            at=START + at,
            policy=policy or self.policy,
            tenant=self.tenant,
            subject=subject,
            actor="operator",
        )

    def judged(
        self,
        user: str,
        verdict: Literal["quarantined", "released"] = "quarantined",
        at: int = 5_000,
        *,
        until: int | None = None,
    ) -> RaterJudged:
        """An operator's word on a rater; with `until`, a test's, of what they said up to then."""
        evidence = None
        if until is not None:
            evidence = RaterEvidence(
                test="agreement", words=40, agreed=9, people=0.75, expected=0.625, p_value=1e-6, until=START + until
            )
        return RaterJudged(
            id=self._next("rj"),
            at=START + at,
            policy=self.policy,
            tenant=self.tenant,
            rater=user,
            verdict=verdict,
            why="because",
            actor="operator" if until is None else "trainer_1",
            evidence=evidence,
        )

    def sealed(self, subject: str, event_id: str, text: str) -> Sealed:
        """`text` under the subject's key, bound to the event."""
        key = self.keys.key_for(subject)
        return seal(text.encode(), key=key.secret, key_id=key.key_id, subject=subject, event_id=event_id)

    def _next(self, prefix: str) -> str:
        self._made[prefix] = self._made.get(prefix, 0) + 1
        return f"{prefix}_{self._made[prefix]:04d}"


def _ref(target: CompletionRecorded, choice: int = 0) -> CandidateRef:
    return CandidateRef(completion_id=target.completion_id, choice=choice, version=target.version)


def _target(target: CompletionRecorded | Sequence[CompletionRecorded], choice: int) -> AnswerTarget | ComparisonTarget:
    if isinstance(target, CompletionRecorded):
        return AnswerTarget(completion_id=target.completion_id, choice=choice, version=target.version)
    name = "cmp_" + "_".join(sorted(item.completion_id for item in target))
    return ComparisonTarget(comparison_id=name, candidates=tuple(_ref(item) for item in target))
