"""Who is not to be believed: people whose words agree with the others' far less than people's do. Pure.

Made to err on the side of belief. Nobody is tested on few words; what is expected of anybody is half of what people
manage beyond chance, so that an unusual taste is not enough; many tests of one kind at once are held to a rate of
false discoveries; and where more than a quarter of all people would fail, none does: that is two camps, no bots. Who
contradicts the others is found (votes turned round), and so is who says nothing (at random, or always the same), but
for that it takes more words. Accounts of few words each can only be found together (`trainer.quality.bursts`).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from schemas.raters import RaterEvidence
from trainer.algorithms.outliers import at_most, false_discoveries
from trainer.gates.statistics import wilson_interval
from trainer.quality.bursts import bursts_of
from trainer.quality.trials import Kind, Trial
from trainer.quality.votes import Vote

_LEAST_AGREEMENT = 0.55
"""Where people's agreement is not surely above this, they agree too little to tell who does not."""
_GOLD = 0.9
"""Share of gold items that people are taken to judge rightly: whoever chose them thought nobody could err."""
_MOST_FOUND = 0.25
"""Share of all people beyond which none is quarantined."""
_COMPARED: tuple[Kind, ...] = ("shared", "predicted")
_WORDS = "words agree with what others say, know or would say"


class RaterSettings(BaseModel):
    """Whom to believe."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    quarantine: bool = Field(
        True,
        description="test people at every turn, and leave out who fails as of the next snapshot; false: do neither",
    )
    gold: Path | None = Field(
        None, description="JSONL of items with a known verdict; see docs/learning.md and `attune raters ask`"
    )
    min_words: int = Field(
        20, ge=5, description="words that can be held against others', before a person is tested (ours)"
    )
    false_discoveries: float = Field(
        0.05, gt=0, lt=1, description="of the quarantined, the expected share at most that agrees as it should"
    )


@dataclass(frozen=True)
class Finding:
    """One person who failed, and why in words that name nobody."""

    rater: str
    why: str
    evidence: RaterEvidence


@dataclass(frozen=True)
class Review:
    """What came of testing everybody."""

    findings: tuple[Finding, ...]
    tested: int
    """People with words enough."""
    note: str = ""
    """Why nobody could be tested or was quarantined, where that needs saying."""

    def in_words(self) -> str:
        """What came of it; empty where there is nothing to say."""
        if self.findings:
            return f"raters: {len(self.findings)} are quarantined as of the next turn, {self.tested} had words enough"
        return f"raters: {self.note}" if self.note else ""


def review(
    votes: Sequence[Vote], trials: Sequence[Trial], settings: RaterSettings, released: Mapping[str, int]
) -> Review:
    """Test everybody who has said enough.

    Args:
        trials: of these votes, as `trials.trials_of` gives them.
        released: when an operator last released somebody: what they said up to then is no evidence.
    """
    crowd = _Crowd.of(votes, trials, settings.min_words)
    if not crowd.shares:
        return Review((), 0, "people agree too little, or too rarely judge what can be compared, to tell who does not")
    of: dict[str, list[Trial]] = {}
    for trial in trials:
        if trial.kind in crowd.shares and trial.vote.at > released.get(trial.vote.rater, -1):
            of.setdefault(trial.vote.rater, []).append(trial)
    thumbs: dict[str, list[bool]] = {}
    for vote in votes:
        if vote.other is None and vote.at > released.get(vote.rater, -1):
            thumbs.setdefault(vote.rater, []).append(vote.liked)
    least = settings.min_words
    tested = [_agreement(rater, own, crowd) for rater, own in sorted(of.items()) if len(own) >= least]
    same = [
        _constant(rater, of[rater], own, crowd)
        for rater, own in sorted(thumbs.items())
        if rater in of and len(own) >= least and len(set(own)) == 1
    ]
    found = _failed([[finding] for finding in tested], settings)
    found += _failed([[one] for one in same if one.rater not in {finding.rater for finding in found}], settings)
    alone = {finding.rater for finding in found}
    together = []
    for burst in bursts_of(votes):
        members = sorted(burst & of.keys() - alone)
        said = [trial for rater in members for trial in of[rater]]
        if len(said) >= least:
            evidence = _evidence("burst", said, crowd)
            why = (
                f"one of {len(members)} who came at once and soon left: {evidence.agreed} of their {evidence.words} "
                f"{_WORDS}, of people's {evidence.people:.0%}"
            )
            together.append([Finding(rater, why, evidence) for rater in members])
    found += _failed(together, settings)
    people = len({vote.rater for vote in votes})
    if len(found) > _MOST_FOUND * people:
        note = f"{len(found)} of {people} people would be quarantined, so none is: look whether there are two camps"
        return Review((), len(tested), note)
    return Review(tuple(found), len(tested))


@dataclass(frozen=True)
class _Crowd:
    """What is usual."""

    shares: Mapping[Kind, float]
    """Share of people's trials that agree, by kind; gold, and kinds in which they surely agree."""
    ups: float
    """Share of people's thumbs that are up."""

    @classmethod
    def of(cls, votes: Sequence[Vote], trials: Sequence[Trial], most: int) -> _Crowd:
        shares: dict[Kind, float] = {}
        if any(trial.kind == "gold" for trial in trials):
            shares["gold"] = _GOLD
        for kind in _COMPARED:
            agreed, count = _pooled(((one.vote.rater, one.agrees) for one in trials if one.kind == kind), most)
            if count >= 1 and wilson_interval(agreed, count)[0] > _LEAST_AGREEMENT:
                shares[kind] = agreed / count
        liked, count = _pooled(((vote.rater, vote.liked) for vote in votes if vote.other is None), most)
        return cls(shares, liked / count if count else 0.5)


def _pooled(said: Iterable[tuple[str, bool]], most: int) -> tuple[float, float]:
    """Yes and all of what people said, of whom none counts for more than `most` words."""
    counts: dict[str, Counter[bool]] = {}
    for rater, yes in said:
        counts.setdefault(rater, Counter())[yes] += 1
    weights = {rater: min(1.0, most / counted.total()) for rater, counted in counts.items()}
    agreed = math.fsum(weights[rater] * counted[True] for rater, counted in counts.items())
    return agreed, max(agreed, math.fsum(weights[rater] * counted.total() for rater, counted in counts.items()))


def _evidence(test: Literal["agreement", "constant", "burst"], trials: Sequence[Trial], crowd: _Crowd) -> RaterEvidence:
    people = math.fsum(crowd.shares[trial.kind] for trial in trials) / len(trials)
    expected = (0.5 + people) / 2
    agreed = sum(trial.agrees for trial in trials)
    gold = [trial for trial in trials if trial.kind == "gold"]
    return RaterEvidence(
        test=test,
        words=len(trials),
        agreed=agreed,
        people=people,
        expected=expected,
        gold=len(gold),
        gold_right=sum(trial.agrees for trial in gold),
        p_value=at_most(agreed, len(trials), expected),
        until=max(trial.vote.at for trial in trials),
    )


def _agreement(rater: str, trials: Sequence[Trial], crowd: _Crowd) -> Finding:
    evidence = _evidence("agreement", trials, crowd)
    return Finding(
        rater, f"{evidence.agreed} of {evidence.words} {_WORDS}, of people's {evidence.people:.0%}", evidence
    )


def _constant(rater: str, trials: Sequence[Trial], thumbs: Sequence[bool], crowd: _Crowd) -> Finding:
    """Somebody whose thumbs are all the same; who speaks of the good or the bad alone, and is right, is believed."""
    evidence = _evidence("constant", trials, crowd)
    usual = crowd.ups if thumbs[0] else 1 - crowd.ups
    chance = usual ** len(thumbs) if evidence.agreed <= evidence.expected * evidence.words else 1.0
    why = (
        f"all {len(thumbs)} thumbs are {'up' if thumbs[0] else 'down'}, of people's {usual:.0%}, and "
        f"{evidence.agreed} of {evidence.words} {_WORDS}, of people's {evidence.people:.0%}"
    )
    return Finding(rater, why, evidence.model_copy(update={"p_value": chance}))


def _failed(tested: Sequence[Sequence[Finding]], settings: RaterSettings) -> list[Finding]:
    """Of groups that stand or fall together, those that fail."""
    failing = false_discoveries([group[0].evidence.p_value for group in tested], settings.false_discoveries)
    return [finding for group, fails in zip(tested, failing, strict=True) if fails for finding in group]
