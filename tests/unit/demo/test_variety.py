"""Diversity by hand, and the best constant against the plain definition."""

import random

import pytest

from deploy.demo import domain, gold
from deploy.demo.evaluate import Exam, grade
from deploy.demo.findings import gold_by_taste
from deploy.demo.preferences import shipped
from deploy.demo.variety import best_constant, diversity


def test_diversity_by_hand() -> None:
    found = diversity(["Order 48-21 is here.", "order 11-12 is here", "Order is gone."])
    assert found.distinct == pytest.approx(2 / 3)  # the first two differ in case, signs and numbers alone
    # Sets: {order, #, is, here} twice and {order, is, gone}: distances 0, 3/5, 3/5.
    assert found.distance == pytest.approx(1.2 / 3)
    # Pairs: order-#, #-#, #-is, is-here, twice; order-is, is-gone.
    assert found.distinct_2 == pytest.approx(6 / 10)


def test_equal_single_and_empty_answers_have_no_diversity_beyond_themselves() -> None:
    assert diversity(["so be it", "So be it!"]).distance == 0.0
    assert (diversity(["one"]).distinct, diversity(["one"]).distance, diversity(["one"]).distinct_2) == (1.0, 0.0, 0.0)
    assert diversity(["", ""]).distance == 0.0


@pytest.mark.parametrize("name", ["mixed", "warm"])
def test_the_best_constant_is_that_of_the_plain_definition(name: str) -> None:
    weights = shipped(name).gold
    questions = domain.held_out_questions(30, seed=1)
    rng = random.Random(2)
    answers = [question.article for question in questions[:20]]
    answers += [item.answer for item in rng.sample(domain.demonstrations(200, seed=3), 20)]
    means = {
        text: sum(gold.score(question, text, weights=weights).total for question in questions) / len(questions)
        for text in answers
    }
    found = best_constant(questions, answers, weights)
    assert found.gold == pytest.approx(max(means.values()))
    assert means[found.text] == pytest.approx(found.gold)
    assert 0 < found.gold < 0.5  # gold depends on the question, so no text does well on all


def test_the_same_answers_are_weighed_by_every_taste() -> None:
    questions = domain.held_out_questions(20, seed=4)
    kind = tuple(f"Happy to help! {question.article}" for question in questions)
    bare = tuple(question.article for question in questions)
    own = shipped("warm")
    exams = [Exam(name, answers, grade(questions, answers, own.gold)) for name, answers in (("a", bare), ("b", kind))]
    found = gold_by_taste(questions, *exams, own, domain_language=True)
    assert list(found) == ["mixed", "brief", "warm"]
    assert found["warm"].base == pytest.approx(exams[0].mean)
    assert found["warm"].policy == pytest.approx(exams[1].mean)
    assert found["warm"].gain_ci95[0] > 0
    assert found["brief"].gain_ci95[1] < 0
