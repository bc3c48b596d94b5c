"""How much of what was answered and said is learnt from, and what became of the rest, by reason. Pure counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from trainer.joining.exclusions import count_reasons
from trainer.joining.join import Joined
from trainer.joining.words import aspects_said


@dataclass(frozen=True)
class Funnel:
    """Each stage is a part of the one before, but for `displayed`, which some apps never report, and for `ppo`."""

    answered: int
    """Answers known."""
    displayed: int
    """Answers reported as shown."""
    rated: int
    """Answers that any feedback speaks of."""
    joined: int
    """Answers that a usable word speaks of."""
    words: int
    """Words of feedback that train the reward model: the usable labels."""
    aspects: int
    """Those of them that value an aspect of an answer."""
    ppo: int
    """Answers that PPO may learn from, judged by a person or not."""
    quarantined: int
    """Raters whose words are not believed."""
    excluded_feedback: Mapping[str, int]
    """Words left out, by reason."""
    excluded_answers: Mapping[str, int]
    """Answers left out of PPO, by reason; one answer may have several."""

    def stages(self) -> dict[str, int]:
        """The stages by name, as metrics and snapshot manifests call them."""
        return {
            "answered": self.answered,
            "displayed": self.displayed,
            "rated": self.rated,
            "joined": self.joined,
            "reward_model": self.words,
            "aspects": self.aspects,
            "ppo": self.ppo,
        }


def funnel(joined: Joined) -> Funnel:
    """Count a join."""
    return Funnel(
        answered=joined.answered,
        displayed=joined.displayed,
        rated=joined.rated,
        joined=len({answer.key for word in joined.words for answer in word.answers}),
        words=len(joined.words),
        aspects=sum(bool(aspects_said(word.feedback)) for word in joined.words),
        ppo=len(joined.trainable),
        quarantined=joined.quarantined,
        excluded_feedback=count_reasons(joined.exclusions, "feedback"),
        excluded_answers=count_reasons(joined.exclusions, "answer"),
    )
