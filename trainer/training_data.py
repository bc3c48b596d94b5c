"""What one turn learns from and is judged on. Plain data: knows no log, no model and no method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from trainer.data import AspectValue, JudgedAnswer, LoggedAnswer, PreferencePair, RatedAnswer, ThumbedAnswer
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

    def for_policy(self) -> PolicyData:
        """What the policy may learn from: of ratings, the nearest thumbs."""
        thumbs = (*self.thumbs, *(thumb for rating in self.ratings if (thumb := rating.thumb())))
        return PolicyData(answers=self.answers, kept=self.kept, pairs=self.pairs, thumbs=thumbs)

    def labels(self) -> dict[str, int]:
        """How many labels of each kind a reward model learns from; ratings are named where there are any."""
        counts = {"pairs": len(self.pairs), "thumbs": len(self.thumbs)}
        return counts | ({"ratings": len(self.ratings)} if self.ratings else {})
