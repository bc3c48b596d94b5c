"""The help desk: its data is consistent, its styles are independent of the questions, its splits don't overlap."""

import random
from collections import Counter
from itertools import islice

import pytest

from deploy.demo import domain
from deploy.demo.domain import Style


def test_every_right_answer_states_the_facts_and_its_own_action_only() -> None:
    rng = random.Random(1)
    for intent in domain.intents():
        question = domain.ask(intent, 0, rng)
        for answer in intent.answers:
            text = answer.format(**question.facts).lower()
            assert question.action in text
            assert all(value.lower() in text for value in question.facts.values())
            foreign = [other.action for other in domain.intents() if other.name != intent.name]
            assert not [action for action in foreign if action.split("{")[0] in text]


def test_questions_carry_their_slots() -> None:
    rng = random.Random(2)
    for intent in domain.intents():
        for phrasing in range(len(intent.questions)):
            question = domain.ask(intent, phrasing, rng)
            assert all(question.facts[slot] in question.text for slot in intent.slots)
            assert "{" not in question.text + question.action + question.article


def test_users_ask_neither_held_out_intents_nor_held_out_phrasings() -> None:
    assert len(domain.intents()) >= 20
    asked = list(islice(domain.user_questions(random.Random(3)), 2000))
    held_out = domain.held_out_questions(200, seed=4)
    assert len({question.intent for question in asked}) == sum(not intent.held_out for intent in domain.intents())
    assert not {question.intent for question in asked} & {question.intent for question in held_out}
    for intent in domain.intents():
        stem = intent.questions[-1].split("{")[0]
        if len(stem) > 12:
            assert not [question for question in asked if question.text.startswith(stem)]


def test_the_same_seed_gives_the_same_demonstrations_and_another_seed_others() -> None:
    first = domain.demonstrations(50, seed=5)
    assert first == domain.demonstrations(50, seed=5)
    assert first != domain.demonstrations(50, seed=6)


def test_style_shares_hold_within_every_intent() -> None:
    made = domain.demonstrations(12_000, seed=7)
    for intent in domain.intents():
        counts = Counter(item.style for item in made if item.question.intent == intent.name)
        for style, share in domain.STYLE_SHARES.items():
            assert counts[style] / counts.total() == pytest.approx(share, abs=0.08)


def test_a_wrong_answer_is_never_the_right_one() -> None:
    rng = random.Random(8)
    for intent in domain.intents():
        for _ in range(50):
            question = domain.ask(intent, 0, rng)
            body = domain.wrong_body(intent, question, rng)
            right = {answer.format(**question.facts) for answer in intent.answers}
            assert body not in right


def test_the_article_goes_to_models_that_did_not_learn_the_domain() -> None:
    question = domain.held_out_questions(1, seed=9)[0]
    assert question.messages() == [{"role": "user", "content": question.text}]
    system, user = question.messages(with_article=True)
    assert system["role"] == "system"
    assert question.article in system["content"]
    assert user["content"] == question.text


def test_words_drop_case_and_punctuation() -> None:
    assert domain.words("Order 48-21, isn't it?") == ["order", "48", "21", "isn", "t", "it"]


def test_every_style_occurs_in_the_shares() -> None:
    assert set(domain.STYLE_SHARES) == set(Style)
    assert sum(domain.STYLE_SHARES.values()) == pytest.approx(1.0)
