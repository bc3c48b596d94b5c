"""What one turn learns from and is judged on. Plain data: knows no log, no model and no method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from trainer.data import JudgedAnswer, LoggedAnswer, PreferencePair, ThumbedAnswer
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
    dropped: Mapping[str, int] = field(default_factory=dict)
    """Rows of the snapshot that could not be opened or used, by reason."""
    kept: KeptSets | None = None
    """What truncated sampling kept, for each of `answers`; None where nothing was cut."""
    judged: Sequence[JudgedAnswer] = ()
    """Of held-out people, with held-out verdicts; oldest first. The value of a candidate is estimated on them."""
    slices: Mapping[tuple[int, ...], tuple[str, ...]] = field(default_factory=dict)
    """The groups that the question of a prompt belongs to; empty where nobody named any."""

    def for_policy(self) -> PolicyData:
        """What the policy may learn from."""
        return PolicyData(answers=self.answers, kept=self.kept, pairs=self.pairs, thumbs=self.thumbs)
