"""Words of one person that cannot all be meant: A over B and B over A, one answer liked and disliked.

On one target the latest word counts, since people change their minds (`trainer.joining.voices`). On different targets
that show the same answers nothing tells which word was meant, so none of them counts. Pure.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator

from schemas.feedback import Comparison, Ranking
from trainer.intake.facts import Answer
from trainer.joining.voices import Voice, voice
from trainer.joining.words import JoinedWord, liked

Same = Callable[[Answer], Hashable]
"""What two answers have in common if, and only if, they are the same answer to the same question."""


def by_key(answer: Answer) -> Hashable:
    """Without a look at their content, only an answer itself is the same."""
    return answer.key


def contradicted(words: Iterable[JoinedWord], same: Same = by_key) -> frozenset[str]:
    """Ids of all words that contradict another word of the same voice.

    - verdicts: an answer liked and disliked;
    - orders (comparisons with a winner, rankings): A before B and B before A;
    - both: B before A, where A is liked and B disliked: all three are out.
    """
    verdicts: defaultdict[tuple[Voice, Hashable], dict[bool, set[str]]] = defaultdict(lambda: defaultdict(set))
    orders: defaultdict[tuple[Voice, Hashable, Hashable], set[str]] = defaultdict(set)
    for word in words:
        who, name = voice(word.feedback), word.feedback.id
        good = liked(word.feedback)
        if good is not None:
            verdicts[who, same(word.answers[0])][good].add(name)
        for better, worse in ordered(word):
            first, second = same(better), same(worse)
            if first != second:
                orders[who, first, second].add(name)
    found: set[str] = set()
    for said in verdicts.values():
        if len(said) == 2:
            found |= said[True] | said[False]
    for (who, first, second), names in orders.items():
        opposite = orders.get((who, second, first))
        if opposite:
            found |= names | opposite
        disliked = verdicts[who, first].get(False) if (who, first) in verdicts else None
        liked_one = verdicts[who, second].get(True) if (who, second) in verdicts else None
        if disliked and liked_one:
            found |= names | disliked | liked_one
    return frozenset(found)


def ordered(word: JoinedWord) -> Iterator[tuple[Answer, Answer]]:
    """Each pair of answers of which the word says that the first is better; ties are none."""
    signal, answers = word.feedback.signal, word.answers
    if isinstance(signal, Comparison) and signal.winner is not None:
        yield from ((answers[signal.winner], other) for place, other in enumerate(answers) if place != signal.winner)
    elif isinstance(signal, Ranking):
        for place, group in enumerate(signal.order):
            for worse in (index for later in signal.order[place + 1 :] for index in later):
                yield from ((answers[better], answers[worse]) for better in group)
