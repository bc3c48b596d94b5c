"""The help-desk domain: questions with their facts, and demonstrations whose style is drawn at random.

A demonstration's style says nothing about its question, so a base trained on them by SFT answers in a mixture of
styles, which is the room that feedback has to improve it. This module knows how good and bad answers are made; it
does not know how anybody judges them (`gold`, `users`).
"""

import random
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from importlib import resources

from deploy.demo import phrases

HELD_OUT_PHRASINGS = 1
SYSTEM_PROMPT = "You answer at the help desk of a shop for the home. Help-desk article: {article}"


@dataclass(frozen=True)
class Intent:
    """One thing customers ask for, as intents.toml describes it."""

    name: str
    slots: tuple[str, ...]
    questions: tuple[str, ...]
    answers: tuple[str, ...]
    action: str
    held_out: bool = False


@dataclass(frozen=True)
class Question:
    """One customer's question and what code must know to judge an answer to it.

    `facts` are the values that a right answer repeats or states (an order number, a product, a shop's hours), `action`
    is the phrase, in lower case, that only this intent's right answers contain.
    """

    intent: str
    text: str
    facts: Mapping[str, str]
    action: str
    article: str

    def messages(self, *, with_article: bool = False) -> list[dict[str, str]]:
        """The chat to send. `with_article` adds what a model that never saw the demonstrations has to know."""
        user = {"role": "user", "content": self.text}
        if not with_article:
            return [user]
        return [{"role": "system", "content": SYSTEM_PROMPT.format(article=self.article)}, user]


class Style(StrEnum):
    """How a demonstration answers; the manners that the base mixes."""

    EXCELLENT = "excellent"
    PLAIN = "plain"
    RAMBLING = "rambling"
    RUDE = "rude"
    WRONG = "wrong"
    LEAKING = "leaking"


# Mostly mediocre on purpose: feedback can only improve what is not yet good.
STYLE_SHARES: Mapping[Style, float] = {
    Style.EXCELLENT: 0.14,
    Style.PLAIN: 0.18,
    Style.RAMBLING: 0.22,
    Style.RUDE: 0.22,
    Style.WRONG: 0.08,
    Style.LEAKING: 0.16,
}

OTHER_FACTS_SHARE = 0.3  # of the wrong answers; the rest are right for another case


@dataclass(frozen=True)
class Demonstration:
    """A question with one answer somebody gave to it, good or bad."""

    question: Question
    answer: str
    style: Style

    def messages(self) -> list[dict[str, str]]:
        """The dialogue in the form that the SFT stage and chat templates take."""
        return [*self.question.messages(), {"role": "assistant", "content": self.answer}]


@cache
def intents() -> tuple[Intent, ...]:
    """Every intent of intents.toml, in its order."""
    entries = tomllib.loads(resources.files("deploy.demo").joinpath("intents.toml").read_text("utf-8"))["intent"]
    return tuple(
        Intent(
            name=entry["name"],
            slots=tuple(entry["slots"]),
            questions=tuple(entry["questions"]),
            answers=tuple(entry["answers"]),
            action=entry["action"],
            held_out=entry.get("held_out", False),
        )
        for entry in entries
    )


def draw_facts(intent: Intent, rng: random.Random) -> dict[str, str]:
    """Fresh values for the intent's slots: two digits for an amount, 48-21 for any other number."""
    facts: dict[str, str] = {}
    for slot in intent.slots:
        match slot:
            case "product":
                facts[slot] = rng.choice(phrases.PRODUCTS)
            case "shop":
                facts[slot] = rng.choice(tuple(phrases.SHOP_HOURS))
                facts["hours"] = phrases.SHOP_HOURS[facts[slot]]
            case "amount":
                facts[slot] = str(rng.randrange(10, 100))
            case _:
                facts[slot] = f"{rng.randrange(10, 100)}-{rng.randrange(10, 100)}"
    return facts


def ask(intent: Intent, phrasing: int, rng: random.Random) -> Question:
    """One question of `intent` in the given phrasing, with fresh facts."""
    facts = draw_facts(intent, rng)
    return Question(
        intent=intent.name,
        text=intent.questions[phrasing].format(**facts),
        facts=facts,
        action=intent.action.format(**facts),
        article=intent.answers[0].format(**facts),
    )


def user_questions(rng: random.Random) -> Iterator[Question]:
    """Endless questions for the made-up users: no held-out intent, no held-out phrasing."""
    open_intents = [intent for intent in intents() if not intent.held_out]
    while True:
        intent = rng.choice(open_intents)
        yield ask(intent, rng.randrange(len(intent.questions) - HELD_OUT_PHRASINGS), rng)


def held_out_questions(count: int, seed: int) -> list[Question]:
    """`count` questions that no user asks: every phrasing of the held-out intents in turn, with fresh facts."""
    rng = random.Random(seed)
    kinds = [(intent, n) for intent in intents() if intent.held_out for n in range(len(intent.questions))]
    return [ask(*kinds[index % len(kinds)], rng) for index in range(count)]


def demonstrations(count: int, seed: int) -> list[Demonstration]:
    """`count` demonstrations over all intents and phrasings, each in a style drawn without looking at the question."""
    rng = random.Random(seed)
    styles, shares = zip(*STYLE_SHARES.items(), strict=True)
    made = []
    for _ in range(count):
        intent = rng.choice(intents())
        question = ask(intent, rng.randrange(len(intent.questions)), rng)
        style = rng.choices(styles, shares)[0]
        made.append(Demonstration(question, answer_in_style(intent, question, style, rng), style))
    return made


def answer_in_style(intent: Intent, question: Question, style: Style, rng: random.Random) -> str:
    """An answer to `question` in the manner of `style`."""
    match style:
        case Style.WRONG:
            sentences = _polite([wrong_body(intent, question, rng)], rng, often=0.5)
        case Style.EXCELLENT:
            sentences = _polite([_body(intent, question.facts, rng)], rng, often=1.0)
        case Style.PLAIN:
            sentences = [_body(intent, question.facts, rng)]
        case Style.RAMBLING:
            sentences = [_body(intent, question.facts, rng), *rng.sample(phrases.RAMBLINGS, rng.randint(1, 3))]
            sentences = _polite(sentences, rng, often=0.5)
        case Style.RUDE:
            sentences = _rude(_body(intent, question.facts, rng), rng)
        case Style.LEAKING:
            sentences = _polite([_body(intent, question.facts, rng)], rng, often=0.5)
            sentences.insert(rng.randint(1, len(sentences)), _leak(rng))
    return " ".join(sentences)


def wrong_body(intent: Intent, question: Question, rng: random.Random) -> str:
    """A fluent answer that is wrong: other facts than the question's, or what is right for another intent only."""
    if rng.random() < OTHER_FACTS_SHARE:
        return _body(intent, _other_facts(intent, question.facts, rng), rng)
    known = set(question.facts)
    others = [other for other in intents() if other.name != intent.name and set(other.slots) <= known]
    if not others:
        return _body(intent, _other_facts(intent, question.facts, rng), rng)
    return _body(rng.choice(others), question.facts, rng)


def words(text: str) -> list[str]:
    """The words and numbers of a text in lower case, without punctuation."""
    return "".join(sign if sign.isalnum() else " " for sign in text.lower()).split()


def _body(intent: Intent, facts: Mapping[str, str], rng: random.Random) -> str:
    return rng.choice(intent.answers).format(**facts)


def _other_facts(intent: Intent, facts: Mapping[str, str], rng: random.Random) -> dict[str, str]:
    while True:
        other = draw_facts(intent, rng)
        if all(other[slot] != facts[slot] for slot in other):
            return other


def _polite(sentences: Sequence[str], rng: random.Random, *, often: float) -> list[str]:
    if rng.random() >= often:
        return list(sentences)
    if rng.random() < 0.5:
        return [rng.choice(phrases.POLITE_OPENINGS), *sentences]
    return [*sentences, rng.choice(phrases.POLITE_CLOSINGS)]


def _rude(sentence: str, rng: random.Random) -> list[str]:
    if rng.random() < 0.5:
        return [rng.choice(phrases.RUDE_OPENINGS), sentence]
    return [sentence, rng.choice(phrases.RUDE_CLOSINGS)]


def _leak(rng: random.Random) -> str:
    name, address = rng.choice(phrases.OTHER_CUSTOMERS)
    return rng.choice(phrases.LEAKS).format(name=name, address=address)
