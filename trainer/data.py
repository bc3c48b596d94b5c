"""The learner's whole input: plain token data, joined, filtered and weighted by someone else.

Knows token ids, logprobs, weights and pseudonyms. Knows nothing of events, consent, stores or text.
All token ids come from the tokenizer of the base model that is trained; nothing here is ever re-tokenised.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from schemas.errors import InvalidInput

IMPORTED = "imported"
"""Source of imported pairs, and cohort of imported thumbs: their scale and bias are learnt apart from live ones."""


@dataclass(frozen=True)
class LoggedAnswer:
    """One sampled answer with the true probability of each of its tokens: what offline PPO learns from.

    Raises:
        InvalidInput: empty prompt or answer, unequal lengths, or sampling whose logprobs cannot be replayed.
    """

    sample_id: str
    """Name of this sample in its snapshot; unique there."""
    completion_id: str
    """The engine request that made it."""
    choice: int
    """Index of the choice within that request."""
    prompt_ids: tuple[int, ...]
    """Token ids the engine saw, chat template applied."""
    answer_ids: tuple[int, ...]
    """Sampled token ids, end-of-turn token included where it was sampled."""
    behaviour_logprobs: tuple[float, ...]
    """Natural-log probability of each sampled token under the sampling that was done, one per answer token."""
    temperature: float
    """Sampling temperature, > 0: logits were divided by it."""
    top_p: float
    """Nucleus mass; 1 = off."""
    top_k: int
    """Number of candidates kept; 0 = off."""
    behaviour_version: int
    """Policy version that sampled it; 0 = base."""
    reward: float | None
    """A score from outside that replaces the reward model's (gold controls, tests); None = score it."""
    group: str
    """Pseudonymous user, the unit of splits and of statistics."""
    slices: tuple[str, ...] = field(default=(), compare=False)
    """The groups that its question belongs to, e.g. `language de`, as far as whoever asked it named them."""

    @property
    def truncated(self) -> bool:
        """Whether top_p or top_k cut the distribution that it was sampled from."""
        return self.top_p != 1.0 or self.top_k != 0

    def __post_init__(self) -> None:
        if not self.prompt_ids or not self.answer_ids:
            raise InvalidInput(f"Sample {self.sample_id} has no prompt or no answer tokens", field="answer_ids")
        if len(self.answer_ids) != len(self.behaviour_logprobs):
            raise InvalidInput(f"Sample {self.sample_id} lacks logprobs of some tokens", field="behaviour_logprobs")
        if not self.temperature > 0:
            raise InvalidInput(f"Sample {self.sample_id} was decoded greedily", field="temperature")


@dataclass(frozen=True)
class PreferencePair:
    """Two answers to one prompt and which of them was preferred (or that neither was)."""

    prompt_ids: tuple[int, ...]
    chosen_ids: tuple[int, ...]
    rejected_ids: tuple[int, ...]
    tie: bool
    """The rater called them equal; `chosen_ids` and `rejected_ids` are then in no order."""
    weight: float
    """Weight of this pair in the loss; 1/C(k,2) for a pair out of a ranking of k (InstructGPT, section 3.5)."""
    group: str
    """Pseudonymous user."""
    source: str
    """Kind of feedback it came from: comparison, ranking, correction, imported."""
    set_id: str
    """Pairs out of one ranking share it and stay in one batch."""
    speaker: str = field(default="", compare=False)
    """Who speaks: user, rater, ai, implicit; empty where nobody says."""
    heldout: str = field(default="", compare=False)
    """Why it is held out: user, time, or empty."""
    at: int = field(default=0, compare=False)
    """When it was said, ms since the epoch; 0 where it was imported, which is older than whatever is live."""


@dataclass(frozen=True)
class ThumbedAnswer:
    """One answer with a thumb up or down."""

    prompt_ids: tuple[int, ...]
    answer_ids: tuple[int, ...]
    liked: bool
    cohort: str
    """Users of one cohort share a scale and a bias, so that harsh and kind voters can be compared."""
    weight: float
    """Inverse propensity of clicking, already clipped."""
    group: str
    """Pseudonymous user."""
    sample_id: str = field(default="", compare=False)
    """Of the logged answer that it is about (`LoggedAnswer.sample_id`); empty where nothing was logged."""
    heldout: str = field(default="", compare=False)
    """Why it is held out: user, time, or empty."""
    at: int = field(default=0, compare=False)
    """As of a pair."""


@dataclass(frozen=True)
class JudgedAnswer:
    """A logged answer with a thumb: what the value of another policy is estimated on."""

    answer: LoggedAnswer
    liked: bool
    cohort: str
    """Of the voter, as in `ThumbedAnswer`."""
    weight: float
    """Inverse propensity of clicking, already clipped."""
    group: str
    """Pseudonym of the voter."""


@dataclass(frozen=True)
class RatedAnswer:
    """One answer with stars.

    Raises:
        InvalidInput: stars outside 1 to 5.
    """

    prompt_ids: tuple[int, ...]
    answer_ids: tuple[int, ...]
    stars: int
    """1 (worst) to 5."""
    cohort: str
    """As of a thumb."""
    weight: float
    """As of a thumb."""
    group: str
    """Pseudonymous user, whose stars are compared with each other before those of others."""
    sample_id: str = field(default="", compare=False)
    """As of a thumb."""
    heldout: str = field(default="", compare=False)
    """As of a thumb."""
    at: int = field(default=0, compare=False)
    """As of a thumb."""

    def __post_init__(self) -> None:
        if not 1 <= self.stars <= 5:
            raise InvalidInput(f"{self.stars} is no number of stars from 1 to 5", field="stars")

    def thumb(self) -> ThumbedAnswer | None:
        """The nearest thumb, for what learns from likes alone: four and five stars up, one and two down, three none."""
        if self.stars == 3:
            return None
        about = (self.cohort, self.weight, self.group, self.sample_id, self.heldout, self.at)
        return ThumbedAnswer(self.prompt_ids, self.answer_ids, self.stars > 3, *about)


@dataclass(frozen=True)
class AspectValue:
    """What someone said of one aspect of one answer."""

    answer: TokenPair
    aspect: str
    """The operator's name for it."""
    value: float
    """-1 to 1."""
    group: str
    """Pseudonymous user."""
    heldout: str = field(default="", compare=False)
    """Why it is held out: user, time, or empty."""


@dataclass(frozen=True)
class Demonstration:
    """A prompt and the answer to imitate."""

    prompt_ids: tuple[int, ...]
    answer_ids: tuple[int, ...]


TokenPair = tuple[tuple[int, ...], tuple[int, ...]]
"""(prompt ids, answer ids)."""


def labelled_answers(
    pairs: Iterable[PreferencePair], verdicts: Iterable[ThumbedAnswer | RatedAnswer]
) -> list[TokenPair]:
    """Every answer that these labels speak of, once, in their order."""
    found = [(pair.prompt_ids, ids) for pair in pairs for ids in (pair.chosen_ids, pair.rejected_ids)]
    found += [(item.prompt_ids, item.answer_ids) for item in verdicts]
    return list(dict.fromkeys(found))
