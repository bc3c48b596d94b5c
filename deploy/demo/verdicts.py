"""What becomes of a verdict between the user's mind and the button: as it is, dealt to somebody else, or turned round.

The two controls of the demo. Shuffled labels keep their frequencies and say nothing any more of the answer that they
are on: whatever is "learnt" from them is an artefact. Flipped labels say the opposite: whatever is learnt harms.
"""

import random
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from deploy.demo.users import Verdict

HELD = 20  # verdicts of each kind that wait for another answer
_TURNED = {Verdict.FIRST: Verdict.SECOND, Verdict.SECOND: Verdict.FIRST}

T = TypeVar("T")


@dataclass
class _Deck(Generic[T]):
    """Verdicts that were given and wait to be dealt: each goes once, and never to the answer that it was given on."""

    rng: random.Random
    held: list[T]

    def exchange(self, own: T) -> T:
        place = self.rng.randrange(len(self.held))
        dealt, self.held[place] = self.held[place], own
        return dealt


@dataclass
class Verdicts:
    """Every verdict goes through here before it is sent. `flipped` may be changed while people talk."""

    seed: int = 0
    shuffled: bool = False
    flipped: bool = False
    _thumbs: _Deck[bool] = field(init=False)
    _comparisons: _Deck[Verdict] = field(init=False)

    def __post_init__(self) -> None:
        rng = random.Random(f"verdicts {self.seed}")
        # Before anybody has said anything: even odds.
        self._thumbs = _Deck(rng, [place % 2 == 0 for place in range(HELD)])
        sides = (Verdict.FIRST, Verdict.SECOND)
        self._comparisons = _Deck(rng, [sides[place % 2] for place in range(HELD)])

    def thumb(self, up: bool) -> bool:
        """What is pressed where the user means `up`."""
        if self.shuffled:
            up = self._thumbs.exchange(up)
        return up != self.flipped

    def comparison(self, verdict: Verdict) -> Verdict:
        """What is said where the user means `verdict`; a tie stays one when turned round, and so does both bad."""
        if self.shuffled:
            verdict = self._comparisons.exchange(verdict)
        return _TURNED.get(verdict, verdict) if self.flipped else verdict
