"""Made-up crowds: people who judge answers by a hidden taste, and others who turn it round or roll dice."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from trainer.quality.predictions import margins
from trainer.quality.review import RaterSettings, Review, review
from trainer.quality.trials import trials_of
from trainer.quality.votes import AnswerKey, Vote

WIDTH = 12
Says = Callable[[float, random.Random], bool]
"""What somebody says of a difference in utility (or of a utility): whether the first is better (or good)."""


def honest(feeling: float, rng: random.Random) -> bool:
    """A logistic choice, wrong about one time in five."""
    return rng.random() < 1 / (1 + math.exp(-1.5 * feeling))


def turned(feeling: float, rng: random.Random) -> bool:
    """The opposite of what is meant."""
    return not honest(feeling, rng)


def dice(_: float, rng: random.Random) -> bool:
    """Nothing."""
    return rng.random() < 0.5


def always_up(feeling: float, rng: random.Random) -> bool:
    """The same, whatever it is."""
    return True


@dataclass
class Crowd:
    """People, what they said, and the answers it was said of."""

    seed: int
    answers: int = 1500
    own_taste: float = 0.5
    """Deviation of a person's taste from what people share, of length 1."""
    votes: list[Vote] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        generator = torch.Generator().manual_seed(self.seed)
        self.states = torch.randn(self.answers, WIDTH, generator=generator)
        self.taste = torch.nn.functional.normalize(torch.randn(WIDTH, generator=generator), dim=0)

    def come(self, name: str, count: int, words: int, says: Says, *, at: int = 0, every: int = 60_000) -> list[str]:
        """`count` people of one kind with `words` words each, half of them comparisons and half thumbs."""
        people = [f"{name}-{number}" for number in range(count)]
        for person in people:
            own = torch.tensor([self.rng.gauss(0, self.own_taste / math.sqrt(WIDTH)) for _ in range(WIDTH)])
            feelings = (self.states @ (self.taste + own)).tolist()
            for number in range(words):
                first, second = self.rng.sample(range(self.answers), 2)
                ident, moment = f"{person}/{number}", at + number * every + self.rng.randrange(1_000)
                if number % 2:
                    better = says(feelings[first] - feelings[second], self.rng)
                    pair = (first, second) if better else (second, first)
                    self.votes.append(Vote(ident, person, moment, key(pair[0]), key(pair[1])))
                else:
                    self.votes.append(Vote(ident, person, moment, key(first), liked=says(feelings[first], self.rng)))
        return people

    def reviewed(self, settings: RaterSettings | None = None, released: dict[str, int] | None = None) -> Review:
        """The review of all that was said."""
        found = margins(self.votes, self.states, {key(place): place for place in range(self.answers)})
        return review(self.votes, trials_of(self.votes, found, {}, {}), settings or RaterSettings(), released or {})


def key(answer: int) -> AnswerKey:
    return f"c{answer}", 0
