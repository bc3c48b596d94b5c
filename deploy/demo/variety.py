"""What a mean of gold hides: how varied the answers are, and how far one and the same answer to everything would get.

Pure; texts and scores in, figures out.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

from deploy.demo import gold
from deploy.demo.domain import Question, words
from deploy.demo.traits import Asked, Look, domain_pairs


@dataclass(frozen=True)
class Diversity:
    """How much answers differ among each other; numbers count as equal, since the question dictates them.

    `distinct`: share of answers that no earlier one equals. `distance`: mean over all pairs of answers of 1 - |A & B| /
    |A | B| of their sets of words (Jaccard's). `distinct_2`: share of pairs of neighbouring words that are no repeat
    (distinct-2 of Li et al., 2016, arXiv:1510.03055). All in [0, 1].
    """

    distinct: float
    distance: float
    distinct_2: float


@dataclass(frozen=True)
class Constant:
    """The one text that does best as the answer to every question, and its mean gold."""

    text: str
    gold: float


def diversity(answers: Sequence[str]) -> Diversity:
    """The diversity of at least one answer."""
    texts = [tuple("#" if word.isdigit() else word for word in words(answer)) for answer in answers]
    sets = [frozenset(text) for text in texts]
    distances = [_distance(first, second) for first, second in combinations(sets, 2)]
    runs = [run for text in texts for run in pairwise(text)]
    return Diversity(
        distinct=len(set(texts)) / len(texts),
        distance=sum(distances) / len(distances) if distances else 0.0,
        distinct_2=len(set(runs)) / len(runs) if runs else 0.0,
    )


def best_constant(
    questions: Sequence[Question], answers: Iterable[str], weights: gold.Weights, *, domain_language: bool = True
) -> Constant:
    """The best of these answers (at least one), each held to all questions; the first of equals."""
    pairs = domain_pairs() if domain_language else None
    asked = [Asked.of(question) for question in questions]
    best = Constant("", -1.0)
    for text in dict.fromkeys(answers):
        look = Look.at(text, pairs)
        mean = sum(gold.weigh(look.beside(one), weights).total for one in asked) / len(asked)
        if mean > best.gold:
            best = Constant(text, mean)
    return best


def _distance(first: frozenset[str], second: frozenset[str]) -> float:
    union = first | second
    return 1 - len(first & second) / len(union) if union else 0.0
