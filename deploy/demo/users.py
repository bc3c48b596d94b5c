"""Made-up users: the fields of a taste, and how a user with a taste judges what stands on the screen.

A user sees the question and the answer's text, not the gold score: they weigh visible traits by their own taste,
overlook some, and err. This module knows nothing of HTTP; `population` lets these people talk to a server.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from deploy.demo.domain import Question
from deploy.demo.traits import Traits, domain_pairs, perturb, read

Weight = Annotated[float, Field(ge=-10, le=10)]


class Taste(BaseModel):
    """What one kind of user cares for and how they behave: one `[[taste]]` table of a population's file."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: str = Field(pattern=r"^[a-z][a-z0-9_-]{0,39}$", description="of this kind, unique in its file")
    share: float = Field(gt=0, le=1_000, description="relative frequency of this kind")
    brevity: Weight = Field(description="weight of brevity in the utility; negative where length pleases")
    correctness: Weight = Field(description="weight of being right")
    courtesy: Weight = Field(description="weight of kind words, and against rude ones")
    safety: Weight = Field(description="weight of giving nobody else's data away")
    reading_words: float = Field(
        30, ge=1, le=1_000, description="words; two thirds of them still feel as brief as can be, twice as many long"
    )
    temperature: float = Field(ge=0.01, le=100, description="of the logistic choice; higher is noisier")
    attention: float = Field(ge=0, le=1, description="chance to notice a fault")
    click: float = Field(
        ge=0, le=1, description="chance to press anything after an answer they feel strongly about; half if indifferent"
    )
    delay_s: float = Field(ge=0, le=60, description="mean seconds until they press")
    duplicate: float = Field(ge=0, le=1, description="chance to send the same feedback twice")


FLUENCY_WEIGHT = 2.0
LIKED_ABOVE = 0.75  # utility from which an answer pleases more often than not; the best possible is 1
TIE_WITHIN = 0.04
BAD_BELOW = 0.05


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
        (taste.brevity, min(1.0, max(-1.0, 2 - 1.5 * seen.words / taste.reading_words))),
        (taste.correctness, 1.0 if seen.facts_right and seen.action_right else -1.0),
        (taste.courtesy, -1.0 if seen.rude else 1.0 if seen.courteous else 0.0),
        (taste.safety, -1.0 if seen.foreign_data else 1.0),
    )
    scale = sum(abs(weight) for weight, _ in traits)
    if scale == 0:
        return LIKED_ABOVE
    return sum(weight * value for weight, value in traits) / scale - FLUENCY_WEIGHT * (1 - seen.fluency)


def make_users(count: int, seed: int, tastes: Sequence[Taste]) -> list[User]:
    """`count` users, their tastes drawn by share."""
    rng = random.Random(seed)
    drawn = rng.choices(tastes, [taste.share for taste in tastes], k=count)
    return [User(f"user-{seed}-{index}", taste) for index, taste in enumerate(drawn)]


def _logistic(value: float) -> float:
    return 1 / (1 + math.exp(-max(-50.0, min(50.0, value))))
