"""A usable word with the answers it speaks of, and what it says of them. Pure; knows facts, opens nothing."""

from __future__ import annotations

from dataclasses import dataclass

from schemas.feedback import FeedbackReceived, Rating, Thumbs
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
