"""Made-up users: tastes as data, and how a user with a taste judges what stands on the screen.

A user sees the question and the answer's text, not the gold score: they weigh visible traits by their own taste,
overlook some, and err. This module knows nothing of HTTP; `population` lets these people talk to a server.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from deploy.demo.domain import Question
from deploy.demo.traits import Traits, domain_pairs, perturb, read


@dataclass(frozen=True)
class Taste:
    """What one kind of user cares for and how they behave.

    Attributes:
        share: relative frequency of this kind.
        brevity, correctness, courtesy, safety: weight of each trait in the user's utility.
        temperature: of the logistic choice; higher is noisier.
        attention: chance to notice a fault.
        click: chance to press anything after an answer they feel strongly about; half of it when indifferent.
        delay_s: mean seconds until they press.
        duplicate: chance to send the same feedback twice.
    """

    name: str
    share: float
    brevity: float
    correctness: float
    courtesy: float
    safety: float
    temperature: float
    attention: float
    click: float
    delay_s: float
    duplicate: float


TASTES = (
    Taste("hurried", 0.24, 1.2, 1.0, 0.5, 1.0, 0.35, 0.85, 0.8, 0.2, 0.02),
    Taste("careful", 0.26, 0.5, 1.8, 0.5, 1.5, 0.35, 0.97, 0.9, 0.5, 0.02),
    Taste("courteous", 0.24, 0.5, 1.0, 1.5, 1.0, 0.35, 0.85, 0.8, 0.3, 0.02),
    Taste("private", 0.16, 0.5, 1.0, 0.7, 2.2, 0.35, 0.95, 0.9, 0.3, 0.05),
    Taste("moody", 0.06, 0.6, 0.8, 0.8, 0.8, 2.0, 0.70, 0.9, 0.1, 0.10),
    # Can be won by long and sugary answers, whatever they say.
    Taste("gameable", 0.02, -1.5, 0.0, 1.5, 0.0, 0.35, 0.50, 1.0, 0.1, 0.05),
    # Presses anything at once, several times.
    Taste("bot", 0.02, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 1.0, 0.0, 0.50),
)

FLUENCY_WEIGHT = 2.0
LIKED_ABOVE = 0.75  # utility from which an answer pleases more often than not; the best possible is 1
TIE_WITHIN = 0.04
BAD_BELOW = 0.05
READING_WORDS = 30


class Verdict(StrEnum):
    """The outcome of comparing two answers."""

    FIRST = "first"
    SECOND = "second"
    TIE = "tie"
    BOTH_BAD = "both_bad"


@dataclass(frozen=True)
class User:
    """One made-up person."""

    name: str
    taste: Taste

    def utility(self, question: Question, answer: str, rng: random.Random, *, domain_language: bool = True) -> float:
        """How much this user enjoys an answer, 1 being the best there is; may be negative. Noisy through attention."""
        seen = read(question, answer, known_pairs=domain_pairs() if domain_language else None)
        return utility(self.taste, perturb(seen, self.taste.attention, rng))

    def likes(self, utility: float, rng: random.Random) -> bool:
        """Thumbs up or down: a logistic choice around `LIKED_ABOVE`."""
        return rng.random() < _logistic((utility - LIKED_ABOVE) / (self.taste.temperature / 3))

    def presses(self, utility: float, rng: random.Random) -> bool:
        """Whether the user gives feedback at all; the more the answer moves them, the likelier."""
        feeling = abs(2 * _logistic((utility - LIKED_ABOVE) / self.taste.temperature) - 1)
        return rng.random() < self.taste.click * (0.5 + 0.5 * feeling)

    def compares(self, first: float, second: float, rng: random.Random) -> Verdict:
        """Which of two answers of these utilities wins."""
        if self.taste.temperature < 1 and max(first, second) < BAD_BELOW:
            return Verdict.BOTH_BAD
        if self.taste.temperature < 1 and abs(first - second) < TIE_WITHIN:
            return Verdict.TIE
        wins = rng.random() < _logistic((first - second) / (self.taste.temperature / 3))
        return Verdict.FIRST if wins else Verdict.SECOND

    def waits(self, rng: random.Random) -> float:
        """Seconds until the user presses; exponential with the taste's mean."""
        return rng.expovariate(1 / self.taste.delay_s) if self.taste.delay_s > 0 else 0.0

    def repeats(self, rng: random.Random) -> bool:
        """Whether the user sends the same feedback once more."""
        return rng.random() < self.taste.duplicate


def utility(taste: Taste, seen: Traits) -> float:
    """Weighted mean of the traits as this taste sees them, each in [-1, 1]; minus what is unreadable."""
    traits = (
        (taste.brevity, min(1.0, max(-1.0, 2 - 1.5 * seen.words / READING_WORDS))),
        (taste.correctness, 1.0 if seen.facts_right and seen.action_right else -1.0),
        (taste.courtesy, -1.0 if seen.rude else 1.0 if seen.courteous else 0.0),
        (taste.safety, -1.0 if seen.foreign_data else 1.0),
    )
    scale = sum(abs(weight) for weight, _ in traits)
    if scale == 0:
        return LIKED_ABOVE
    return sum(weight * value for weight, value in traits) / scale - FLUENCY_WEIGHT * (1 - seen.fluency)


def make_users(count: int, seed: int, tastes: Sequence[Taste] = TASTES) -> list[User]:
    """`count` users, their tastes drawn by share."""
    rng = random.Random(seed)
    drawn = rng.choices(tastes, [taste.share for taste in tastes], k=count)
    return [User(f"user-{seed}-{index}", taste) for index, taste in enumerate(drawn)]


def _logistic(value: float) -> float:
    return 1 / (1 + math.exp(-max(-50.0, min(50.0, value))))
