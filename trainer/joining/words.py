"""A usable word with the answers it speaks of, and what it says of them. Pure; knows facts, opens nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from schemas.feedback import AnswerTarget, Comment, FeedbackReceived, Outcome, Rating, Thumbs
from trainer.intake.facts import Answer


@dataclass(frozen=True)
class JoinedWord:
    """One person's word that trains the reward model, with the answers it speaks of."""

    feedback: FeedbackReceived
    """Without its sealed content."""
    answers: tuple[Answer, ...]
    """In the order of the target's candidates; one for an answer target."""

    @property
    def finished_at(self) -> int:
        """When the last of its answers was finished, ms since the epoch."""
        return max(answer.completion.finished_at for answer in self.answers)


def liked(word: FeedbackReceived) -> bool | None:
    """A verdict as good or bad: thumbs as they are, 4 or 5 stars good, 1 or 2 bad; None for everything else.

    What the reward model learns from ratings are the stars themselves (`trainer.algorithms.ordinal`).
    """
    if isinstance(word.signal, Thumbs):
        return word.signal.value == "up"
    if isinstance(word.signal, Rating) and word.signal.stars != 3:
        return word.signal.stars > 3
    return None


def states_preference(word: FeedbackReceived) -> bool:
    """Whether a word says which answers are good, and not only something of them."""
    return not isinstance(word.signal, Comment | Outcome)


def aspects_said(word: FeedbackReceived) -> Mapping[str, float]:
    """The aspects that a word on one answer values. Of candidates side by side it does not say whose they are; and
    what is no number from -1 to 1 came past the server's own check, and is not believed.
    """
    said = word.aspects if isinstance(word.target, AnswerTarget) else {}
    return {name: value for name, value in said.items() if -1 <= value <= 1}
