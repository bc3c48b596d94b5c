"""The demo's own account of what it sent and got: requests, failures, feedback ids, versions seen, gold on the way.

Counts what happened at the client's side of the wire, so that the report can be held against the event log.
"""

import time
from collections import Counter, deque
from dataclasses import dataclass, field

RECENT = 150  # answers per version that the live gold is averaged over
KEPT_FAILURES = 20


@dataclass(frozen=True)
class Thumb:
    """What somebody pressed a thumb on, and which."""

    question: str
    answer: str
    version: str
    up: bool


@dataclass
class Ledger:
    """Written by the population, read by the screen and the report.

    Attributes:
        requests_sent: chat and comparison requests.
        failures: the first few request failures in words; `requests_failed` counts them all.
        feedback_ids: distinct ids of acknowledged feedback (a duplicate sent on purpose adds none).
        thumbs: id of acknowledged feedback -> the thumb that it is, in the order of the acknowledgements.
        first_answer_at: version -> `time.monotonic()` of the first answer it gave to a user.
        recent_gold: version -> gold of its latest answers to users; shown live, part of no result.
    """

    requests_sent: int = 0
    requests_failed: int = 0
    feedback_sent: int = 0
    feedback_failed: int = 0
    thumbs_up: int = 0
    thumbs_down: int = 0
    comparisons: int = 0
    failures: list[str] = field(default_factory=list)
    feedback_ids: set[str] = field(default_factory=set)
    thumbs: dict[str, Thumb] = field(default_factory=dict)
    answers: Counter[str] = field(default_factory=Counter)
    first_answer_at: dict[str, float] = field(default_factory=dict)
    recent_gold: dict[str, deque[float]] = field(default_factory=dict)

    def answered(self, version: str, gold: float) -> None:
        """A user got an answer from `version`, worth `gold`."""
        self.answers[version] += 1
        self.first_answer_at.setdefault(version, time.monotonic())
        self.recent_gold.setdefault(version, deque(maxlen=RECENT)).append(gold)

    def request_failed(self, what: str) -> None:
        """A chat or comparison request came back with an error or not at all."""
        self.requests_failed += 1
        self._keep(what)

    def feedback_refused(self, what: str) -> None:
        """Feedback was not acknowledged."""
        self.feedback_failed += 1
        self._keep(what)

    def acknowledged(self, feedback_id: str, thumb: Thumb | None = None) -> None:
        """The server says that this feedback is durable; `thumb` where it is one."""
        self.feedback_ids.add(feedback_id)
        if thumb is not None:
            self.thumbs[feedback_id] = thumb

    def live_gold(self, version: str) -> float | None:
        """Mean gold of the version's latest answers to users; None before the first."""
        scores = self.recent_gold.get(version)
        return sum(scores) / len(scores) if scores else None

    def _keep(self, what: str) -> None:
        if len(self.failures) < KEPT_FAILURES:
            self.failures.append(what)
