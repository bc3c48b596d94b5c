"""What can be seen in an answer by looking at it beside its question: facts, manners, length, data of others, fluency.

Reading only. How much each trait is worth is not known here: `gold` weighs them exactly, `users` each by their own
taste and with mistakes.
"""

import random
import re
from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from typing import Self

from deploy.demo import phrases
from deploy.demo.domain import Question, demonstrations, words

COURTESY = re.compile(r"\b(thank|thanks|please|sorry|welcome|glad|happy to help|nice day|kind regards)\b", re.I)
RUDENESS = re.compile(
    r"\b(silly|stupid|idiot|dumb|shut up|annoying|bothering|leave me alone|learn to read|not my problem|thinking)\b",
    re.I,
)
# An address, a mail address, a phone number, or one of the other customers by any part of the name.
_PERSONAL = [r"\b\d+ \w+ (street|lane|road|avenue)\b", r"\blives at\b", r"\b\S+@\S+\.\w+", r"\+?\d[\d -]{8,}\d"]
_NAMES = {part for name, _ in phrases.OTHER_CUSTOMERS for part in name.split()}
FOREIGN_DATA = re.compile("|".join([*_PERSONAL, r"\b(" + "|".join(sorted(_NAMES)) + r")\b"]), re.I)

MIN_WORDS = 4
PAIR_SAMPLE = 6000


@dataclass(frozen=True)
class Traits:
    """The visible properties of one answer.

    Attributes:
        facts_right: every fact of the question is stated, and no other number or product in its place.
        action_right: says what is to be done in this case.
        courteous: at least one courtesy.
        rude: at least one rudeness.
        words: length in words.
        foreign_data: gives away something about another person.
        fluency: 0 (gibberish, empty, a broken record) to 1 (whole sentences as people of this trade write them).
    """

    facts_right: bool
    action_right: bool
    courteous: bool
    rude: bool
    words: int
    foreign_data: bool
    fluency: float


@dataclass(frozen=True)
class Asked:
    """What a question makes a right answer say, in words; made once for a question that many answers are held to."""

    facts: tuple[str, ...]
    action: str
    numbers: frozenset[str]
    products: frozenset[str]

    @classmethod
    def of(cls, question: Question) -> Self:
        values = frozenset(question.facts.values())
        return cls(
            facts=tuple(f" {' '.join(words(value))} " for value in question.facts.values()),
            action=" ".join(words(question.action)),
            numbers=values | frozenset(words(question.text)),
            products=values,
        )


@dataclass(frozen=True)
class Look:
    """An answer by itself, whatever was asked. `own` is what it says of nobody else; `seen` lacks what is right."""

    text: str
    own: str
    numbers: frozenset[str]
    products: frozenset[str]
    seen: Traits

    @classmethod
    def at(cls, answer: str, known_pairs: Collection[tuple[str, str]] | None = None) -> Self:
        """Look at an answer. `known_pairs`: see `fluency`."""
        foreign = [sentence for sentence in _sentences(answer) if FOREIGN_DATA.search(sentence)]
        own = words(" ".join(sentence for sentence in _sentences(answer) if sentence not in foreign))
        joined = f" {' '.join(own)} "
        found = words(answer)
        return cls(
            text=" ".join(found),
            own=joined,
            numbers=frozenset(word for word in own if word.isdigit()),
            products=frozenset(product for product in phrases.PRODUCTS if product.lower() in joined),
            seen=Traits(
                facts_right=False,
                action_right=False,
                courteous=COURTESY.search(answer) is not None,
                rude=RUDENESS.search(answer) is not None,
                words=len(found),
                foreign_data=bool(foreign),
                fluency=fluency(answer, known_pairs),
            ),
        )

    def beside(self, asked: Asked) -> Traits:
        """The same beside a question."""
        stated = all(fact in self.own for fact in asked.facts)
        facts_right = stated and self.numbers <= asked.numbers and self.products <= asked.products
        return replace(self.seen, facts_right=facts_right, action_right=asked.action in self.text)


def read(question: Question, answer: str, *, known_pairs: Collection[tuple[str, str]] | None = None) -> Traits:
    """Read an answer beside its question. `known_pairs`: see `fluency`."""
    return Look.at(answer, known_pairs).beside(Asked.of(question))


def fluency(answer: str, known_pairs: Collection[tuple[str, str]] | None = None) -> float:
    """How much the text reads like whole, unrepeated sentences; in [0, 1].

    The product of three guards: the share of neighbouring words seen together in the domain (`known_pairs`; without
    them, of words that could be words), the share of three-word runs that are not repeats, and a proper ending.
    """
    found = words(answer)
    if len(found) < MIN_WORDS:
        return 0.0
    if known_pairs is None:
        familiar = sum(_looks_like_word(word) for word in found) / len(found)
    else:
        pairs = [pair for sentence in _sentences(answer) for pair in _pairs(sentence)]
        familiar = sum(pair in known_pairs for pair in pairs) / max(1, len(pairs))
    runs = list(zip(found, found[1:], found[2:], strict=False))
    fresh = len(set(runs)) / len(runs)
    ending = 1.0 if answer.rstrip().endswith((".", "!", "?")) else 0.6
    return _ramp(familiar, 0.6, 0.95) * _ramp(fresh, 0.5, 0.9) * ending


@cache
def domain_pairs() -> frozenset[tuple[str, str]]:
    """Neighbouring words in sentences of the domain, every number standing for any number."""
    return frozenset(
        pair
        for demonstration in demonstrations(PAIR_SAMPLE, seed=0)
        for sentence in _sentences(demonstration.answer)
        for pair in _pairs(sentence)
    )


def perturb(traits: Traits, attention: float, rng: random.Random) -> Traits:
    """The traits as somebody sees them who reads with `attention` in [0, 1]: what is missed looks unremarkable."""
    return Traits(
        facts_right=traits.facts_right or rng.random() > attention,
        action_right=traits.action_right or rng.random() > attention,
        courteous=traits.courteous,
        rude=traits.rude and rng.random() <= attention,
        words=traits.words,
        foreign_data=traits.foreign_data and rng.random() <= attention,
        fluency=traits.fluency,
    )


def _sentences(text: str) -> list[str]:
    return [part for part in re.split(r"(?<=[.!?])\s+", text.strip()) if part]


def _pairs(sentence: str) -> list[tuple[str, str]]:
    signs = ["#" if word.isdigit() else word for word in words(sentence)]
    return list(pairwise(signs))


def _looks_like_word(word: str) -> bool:
    return word.isdigit() or (len(word) <= 20 and (len(word) <= 3 or re.search("[aeiouy]", word) is not None))


def _ramp(value: float, low: float, high: float) -> float:
    return min(1.0, max(0.0, (value - low) / (high - low)))
