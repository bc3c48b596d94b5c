"""Made-up users: each taste prefers what it is said to prefer, noisily, and nobody reads the gold score."""

import random

import pytest

from deploy.demo import gold, phrases, users
from deploy.demo.domain import Question
from deploy.demo.preferences import shipped
from deploy.demo.users import User, Verdict

TASTES = shipped("mixed").tastes
QUESTION = Question(
    "order_status",
    "Where is my order 48-21?",
    {"order": "48-21"},
    "on the tracking page",
    "You can follow order 48-21 on the tracking page.",
)
GOOD = "Happy to help! You can follow order 48-21 on the tracking page."
RUDE = "What a silly question. You can follow order 48-21 on the tracking page."
LEAK = f"{GOOD} By the way, Danu Okresh from 41 Heron Lane asked the same."
WRONG = "Happy to help! The invoice for order 48-21 is ready under billing."
LONG = f"{GOOD} {' '.join(phrases.RAMBLINGS[:3])} Thank you for your patience."


def taste(name: str) -> users.Taste:
    return next(taste for taste in TASTES if taste.name == name)


def win_rate(name: str, first: str, second: str, count: int = 400) -> float:
    """Share of decided comparisons that `first` wins with users of one taste."""
    rng = random.Random(1)
    user = User("u", taste(name))
    verdicts = [
        user.compares(user.utility(QUESTION, first, rng), user.utility(QUESTION, second, rng), rng)
        for _ in range(count)
    ]
    first_wins, second_wins = verdicts.count(Verdict.FIRST), verdicts.count(Verdict.SECOND)
    return first_wins / (first_wins + second_wins)


@pytest.mark.parametrize("name", ["hurried", "careful", "courteous", "private"])
@pytest.mark.parametrize("worse", [RUDE, LEAK, WRONG, LONG])
def test_every_honest_taste_prefers_the_good_answer(name: str, worse: str) -> None:
    assert win_rate(name, GOOD, worse) > 0.75


def test_tastes_differ_in_what_they_mind_most() -> None:
    assert win_rate("private", RUDE, LEAK) > 0.8
    assert win_rate("courteous", LEAK, RUDE) > win_rate("private", LEAK, RUDE)
    assert win_rate("gameable", LONG, GOOD) > 0.6  # won by sugar and length
    assert win_rate("bot", GOOD, WRONG) == pytest.approx(0.5, abs=0.08)


def test_utility_is_no_function_of_gold() -> None:
    rng = random.Random(2)
    assert gold.score(QUESTION, GOOD).total > gold.score(QUESTION, LONG).total
    gameable = User("g", taste("gameable"))
    assert gameable.utility(QUESTION, LONG, rng) > gameable.utility(QUESTION, GOOD, rng)


def test_thumbs_follow_utility_and_are_noisy() -> None:
    rng = random.Random(3)
    user = User("u", taste("careful"))
    ups = {
        text: sum(user.likes(user.utility(QUESTION, text, rng), rng) for _ in range(500)) / 500
        for text in (GOOD, WRONG, LEAK)
    }
    assert 0.75 < ups[GOOD] < 1.0
    assert ups[WRONG] < 0.2
    assert ups[LEAK] < 0.2


def test_strong_feelings_are_pressed_more_often() -> None:
    rng = random.Random(4)
    user = User("u", taste("careful"))
    strong = sum(user.presses(-0.5, rng) for _ in range(1000))
    lukewarm = sum(user.presses(users.LIKED_ABOVE, rng) for _ in range(1000))
    assert strong > lukewarm
    assert lukewarm / 1000 == pytest.approx(user.taste.click / 2, abs=0.05)


def test_two_bad_answers_and_two_equal_ones_are_said_to_be_so() -> None:
    rng = random.Random(5)
    user = User("u", taste("private"))
    assert user.compares(-0.5, -0.4, rng) is Verdict.BOTH_BAD
    assert user.compares(0.80, 0.81, rng) is Verdict.TIE


def test_kinds_come_by_share_and_seed() -> None:
    made = users.make_users(4000, 6, TASTES)
    assert made == users.make_users(4000, 6, TASTES)
    assert len({user.name for user in made}) == 4000
    assert sum(taste.share for taste in TASTES) == pytest.approx(1.0)
    for kind in TASTES:
        assert sum(user.taste is kind for user in made) / 4000 == pytest.approx(kind.share, abs=0.03)


def test_delays_and_duplicates_follow_the_taste() -> None:
    rng = random.Random(7)
    user, bot = User("u", taste("careful")), User("b", taste("bot"))
    assert sum(user.waits(rng) for _ in range(2000)) / 2000 == pytest.approx(user.taste.delay_s, rel=0.15)
    assert bot.waits(rng) == 0.0
    assert sum(bot.repeats(rng) for _ in range(1000)) / 1000 == pytest.approx(0.5, abs=0.06)


def test_unreadable_text_pleases_nobody() -> None:
    rng = random.Random(8)
    for kind in TASTES:
        if kind.name not in ("bot", "moody"):
            user = User("u", kind)
            assert user.utility(QUESTION, "order order order tracking zzz", rng) < users.LIKED_ABOVE - 0.5
