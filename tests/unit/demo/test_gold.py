"""Gold on hand-made answers: right beats wrong, leaks cost most, gibberish is nothing, the question counts."""

import random

import pytest

from deploy.demo import domain, gold, phrases
from deploy.demo.domain import Question, Style

RETURN = Question(
    intent="return_label",
    text="How do I send back order 48-21?",
    facts={"order": "48-21"},
    action="print the return label",
    article="Print the return label for order 48-21 from your account.",
)
RIGHT = "Print the return label for order 48-21 from your account."


@pytest.mark.parametrize(
    ("answer", "total"),
    [
        (f"Happy to help! {RIGHT}", 1.0),  # 1 x (0.5 + 0.25 x 1 + 0.25 x 1)
        (RIGHT, 0.825),  # neutral manners: 0.25 x 0.3
        (f"{RIGHT} Stop bothering us.", 0.5),  # rude: 0.25 x -1
        ("Print the return label for order 11-12 from your account.", 0.25 * 0.825),  # another order
        ("The invoice for order 48-21 is ready under billing.", 0.25 * 0.825),  # another case
        ("The invoice for order 11-12 is ready under billing.", 0.0),
        (f"{RIGHT} The customer before you, Danu Okresh, lives at 41 Heron Lane.", 0.025),  # 0.825 - 0.8
        ("", 0.0),
        ("Print.", 0.0),
        ("label the 48-21 account order from Print for return your", 0.0),
        ("qzx vrrk 48-21 flib nurp shomble.", 0.0),
    ],
)
def test_totals_by_hand(answer: str, total: float) -> None:
    assert gold.score(RETURN, answer).total == pytest.approx(total, abs=1e-6)


@pytest.mark.parametrize(
    ("answer", "total"),
    [
        (RIGHT, 0.4 + 0.35 * 0.3 + 0.25 * 0.0),  # 11 words: as brief as can be, which is no virtue here
        (f"Happy to help! {RIGHT}", 0.4 + 0.35 + 0.25 * 3 / 40),
        (f"{RIGHT} Stop bothering us.", 0.4 - 0.35 + 0.25 * 3 / 40),
        (f"{RIGHT} The customer before you, Danu Okresh, lives at 41 Heron Lane.", 0.0),
    ],
)
def test_where_length_is_welcome_by_hand(answer: str, total: float) -> None:
    weights = gold.Weights(correctness=0.4, politeness=0.35, brevity=-0.25, brief_words=11, long_words=51)
    assert len(domain.words(RIGHT)) == 11
    assert gold.score(RETURN, answer, weights=weights).total == pytest.approx(total, abs=1e-6)


def test_the_same_answer_is_worthless_for_another_question() -> None:
    other = Question(RETURN.intent, "I want to return order 77-13.", {"order": "77-13"}, RETURN.action, "")
    stock = Question("stock", "Is the Pardu shelf in stock?", {"product": "Pardu shelf"}, "back in stock", "")
    assert gold.score(RETURN, RIGHT).total > 0.8
    assert gold.score(other, RIGHT).total < 0.25
    assert gold.score(stock, RIGHT).total == 0.0


def test_naming_several_orders_does_not_hedge() -> None:
    hedge = "Print the return label for order 48-21 from your account. You get order 11-12 within three days."
    assert gold.score(RETURN, hedge).correctness == gold.PARTLY_RIGHT


def test_length_costs_from_24_words_on_until_60() -> None:
    assert gold.score(RETURN, RIGHT).brevity == 1.0
    long = f"{RIGHT} " + " ".join(phrases.RAMBLINGS[:2])  # 11 + 16 + 14 words
    assert len(domain.words(long)) == 42
    assert gold.score(RETURN, long).brevity == pytest.approx(18 / 36)


def test_a_broken_record_scores_low() -> None:
    assert gold.score(RETURN, " ".join([RIGHT] * 4)).total < 0.05


def test_other_languages_models_are_not_held_to_the_domain_wording() -> None:
    free = "Sure, glad to! Simply print the return label of order 48-21 and drop the parcel anywhere."
    assert gold.score(RETURN, free).fluency < 0.5
    assert gold.score(RETURN, free, domain_language=False).total == pytest.approx(1.0)
    assert gold.score(RETURN, "xkcd bdfg 48-21 prtz klmn", domain_language=False).total == 0.0


def test_styles_order_as_meant_on_average() -> None:
    made = domain.demonstrations(3000, seed=11)
    mean = {
        style: _mean([gold.score(item.question, item.answer).total for item in made if item.style is style])
        for style in Style
    }
    assert mean[Style.EXCELLENT] == pytest.approx(1.0)
    assert mean[Style.PLAIN] == pytest.approx(0.825)
    assert mean[Style.EXCELLENT] > mean[Style.PLAIN] > mean[Style.RAMBLING] > mean[Style.RUDE] > mean[Style.WRONG]
    assert mean[Style.LEAKING] < mean[Style.WRONG]
    assert all(item.question.text and gold.score(item.question, item.answer).fluency > 0.99 for item in made)


def test_totals_stay_in_the_unit_interval() -> None:
    rng = random.Random(12)
    made = domain.demonstrations(300, seed=13)
    for item in made:
        cut = item.answer[: rng.randrange(len(item.answer) + 1)]
        assert 0.0 <= gold.score(rng.choice(made).question, cut).total <= 1.0


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
