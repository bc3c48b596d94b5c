"""How far people agree on answers that several of them judged: Krippendorff's alpha for verdicts and for orders. Pure.

Most answers of a chat are seen by one person alone, so this often cannot be measured; it then says so. One judgement
counts for each person and item. Only people and raters count: what models and apps say is not agreement of people.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping

from schemas.feedback import PEOPLE
from schemas.manifests import Agreement
from trainer.algorithms.agreement import krippendorff_alpha
from trainer.joining.contradictions import Same, by_key, ordered
from trainer.joining.voices import Voice, voice
from trainer.joining.words import JoinedWord, liked

Judgements = Mapping[Hashable, Mapping[Voice, Hashable]]
"""What each voice said of each item."""


def agreement(words: Iterable[JoinedWord], same: Same = by_key) -> dict[str, Agreement]:
    """Agreement on `thumbs` (answers liked or not) and on `pairs` (which of two answers is better).

    Args:
        same: what tells that two answers are the same answer to the same question.
    """
    thumbs: dict[Hashable, dict[Voice, Hashable]] = {}
    pairs: dict[Hashable, dict[Voice, Hashable]] = {}
    for word in words:
        if word.feedback.source not in PEOPLE:
            continue
        who, good = voice(word.feedback), liked(word.feedback)
        if good is not None:
            thumbs.setdefault(same(word.answers[0]), {})[who] = good
        for better, worse in ordered(word):
            first, second = same(better), same(worse)
            if first != second:
                pairs.setdefault(frozenset((first, second)), {})[who] = first
    return {"thumbs": _measured(thumbs), "pairs": _measured(pairs)}


def _measured(judgements: Judgements) -> Agreement:
    shared = [said for said in judgements.values() if len(said) > 1]
    return Agreement(
        alpha=krippendorff_alpha([list(said.values()) for said in shared]),
        items=len(shared),
        people=len({who for said in shared for who in said}),
        judgements=sum(map(len, shared)),
    )
