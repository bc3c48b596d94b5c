"""What one turn learns from and is judged on. Plain data: knows no log, no model and no method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from schemas.feedback import FeedbackSource
from trainer.data import IMPORTED, AspectValue, JudgedAnswer, LoggedAnswer, PreferencePair, RatedAnswer, ThumbedAnswer
from trainer.learn.policy import PolicyData
from trainer.learn.replay import KeptSets


@dataclass(frozen=True)
class TrainingData:
    """What one turn learns from and is judged on; nobody's label is in both."""

    answers: Sequence[LoggedAnswer]
    """Whose every token has its true probability: for PPO, and to measure the drift on."""
    pairs: Sequence[PreferencePair]
    thumbs: Sequence[ThumbedAnswer]
    heldout_pairs: Sequence[PreferencePair]
    heldout_thumbs: Sequence[ThumbedAnswer]
    prompts: Sequence[tuple[int, ...]]
    """For candidate and parent to answer."""
    ratings: Sequence[RatedAnswer] = ()
    heldout_ratings: Sequence[RatedAnswer] = ()
    aspects: Sequence[AspectValue] = ()
    heldout_aspects: Sequence[AspectValue] = ()
    dropped: Mapping[str, int] = field(default_factory=dict)
    """Rows of the snapshot that could not be opened or used, by reason."""
    kept: KeptSets | None = None
    """What truncated sampling kept, for each of `answers`; None where nothing was cut."""
    judged: Sequence[JudgedAnswer] = ()
    """Of held-out people, with held-out verdicts; oldest first. The value of a candidate is estimated on them."""
    slices: Mapping[tuple[int, ...], tuple[str, ...]] = field(default_factory=dict)
    """Prompt -> all groups that asked it; empty where nobody named any."""

    def for_policy(self) -> PolicyData:
        """What the policy may learn from."""
        return PolicyData(answers=self.answers, kept=self.kept, pairs=self.pairs, thumbs=self.likes())

    def likes(self) -> tuple[ThumbedAnswer, ...]:
        """Thumbs, and the nearest thumbs of ratings."""
        return (*self.thumbs, *_thumbs_of(self.ratings))

    def heldout_likes(self) -> tuple[ThumbedAnswer, ...]:
        """The same of what is held out."""
        return (*self.heldout_thumbs, *_thumbs_of(self.heldout_ratings))

    def labels(self) -> dict[str, int]:
        """How many labels of each kind a reward model learns from; ratings are named where there are any."""
        counts = {"pairs": len(self.pairs), "thumbs": len(self.thumbs)}
        return counts | ({"ratings": len(self.ratings)} if self.ratings else {})

    def of_people(self) -> TrainingData:
        """The same without what models said: for whatever asks what people think."""
        return replace(
            self,
            pairs=tuple(pair for pair in self.pairs if pair.speaker != FeedbackSource.AI),
            thumbs=tuple(thumb for thumb in self.thumbs if thumb.cohort != FeedbackSource.AI),
            ratings=tuple(rating for rating in self.ratings if rating.cohort != FeedbackSource.AI),
        )

    def live(self) -> TrainingData:
        """The same without imported votes: for whatever asks what people want of this policy."""
        return replace(
            self,
            pairs=tuple(pair for pair in self.pairs if pair.source != IMPORTED),
            thumbs=tuple(thumb for thumb in self.thumbs if thumb.cohort != IMPORTED),
        )


def _thumbs_of(ratings: Sequence[RatedAnswer]) -> list[ThumbedAnswer]:
    return [thumb for rating in ratings if (thumb := rating.thumb())]
