"""Who fails and who does not: figures by hand, and made-up crowds in which it is known who means what they say."""

from __future__ import annotations

import pytest

from tests.unit.trainer.quality.crowds import Crowd, always_up, dice, honest, key, turned
from trainer.algorithms.outliers import at_most
from trainer.quality.bursts import WINDOW_MS, bursts_of
from trainer.quality.review import RaterSettings, review
from trainer.quality.trials import Kind, Trial
from trainer.quality.votes import Vote

SETTINGS = RaterSettings()


def said(rater: str, agreed: int, count: int, *, kind: Kind = "predicted", up: bool | None = None) -> list[Trial]:
    """Thumbs of one person, an hour apart, up and down in turn, of which the first `agreed` agree."""
    return [
        Trial(
            Vote(f"{rater}/{n}", rater, 3_600_000 * n, key(n), liked=n % 2 == 0 if up is None else up),
            kind,
            n < agreed,
        )
        for n in range(count)
    ]


def votes(trials: list[Trial]) -> list[Vote]:
    return [trial.vote for trial in trials]


def crowd(people: int = 40, agreed: int = 15, count: int = 20) -> list[Trial]:
    return [trial for number in range(people) for trial in said(f"p{number}", agreed, count)]


def test_one_who_contradicts_everybody_by_hand() -> None:
    """40 people agree in 15 of 20 words and one in 3: 603 of 820 agree, so (0.735 + 0.5) / 2 is expected of anybody."""
    trials = crowd() + said("odd", 3, 20)
    found = review(votes(trials), trials, SETTINGS, {})
    (finding,) = found.findings
    assert (finding.rater, found.tested, found.note) == ("odd", 41, "")
    evidence = finding.evidence
    assert (evidence.test, evidence.words, evidence.agreed, evidence.gold) == ("agreement", 20, 3, 0)
    assert evidence.people == pytest.approx(603 / 820)
    assert evidence.expected == pytest.approx((603 / 820 + 0.5) / 2)
    assert evidence.p_value == pytest.approx(at_most(3, 20, evidence.expected)) == pytest.approx(2.376e-5, rel=1e-3)
    assert evidence.until == 3_600_000 * 19
    assert finding.why == "3 of 20 words agree with what others say, know or would say, of people's 74%"
    assert found.in_words() == "raters: 1 are quarantined as of the next turn, 41 had words enough"


def test_gold_items_weigh_as_what_is_usual_for_them() -> None:
    """Of predictions 608 of 815 agree, of gold items nine of ten are expected, however few people were asked any."""
    trials = crowd() + said("odd", 8, 15) + said("odd", 0, 10, kind="gold")
    (finding,) = review(votes(trials), trials, SETTINGS, {}).findings
    assert (finding.evidence.gold, finding.evidence.gold_right) == (10, 0)
    assert finding.evidence.people == pytest.approx((15 * 608 / 815 + 10 * 0.9) / 25)


def test_few_words_are_no_evidence_and_few_people_no_crowd() -> None:
    trials = crowd() + said("new", 0, 19)
    assert review(votes(trials), trials, SETTINGS, {}).findings == ()
    alone = said("ann", 20, 20) + said("bob", 0, 20)
    found = review(votes(alone), alone, SETTINGS, {})
    assert (found.findings, found.tested) == ((), 0)
    assert "agree too little" in found.in_words()
    assert review([], [], SETTINGS, {}).findings == ()


def test_where_people_hardly_agree_nobody_is_tested() -> None:
    trials = crowd(agreed=11) + said("odd", 0, 20)
    assert review(votes(trials), trials, SETTINGS, {}).tested == 0


def test_two_camps_are_not_outliers() -> None:
    trials = crowd(people=40) + [one for number in range(14) for one in said(f"other{number}", 2, 20)]
    found = review(votes(trials), trials, SETTINGS, {})
    assert (found.findings, found.tested) == ((), 54)
    assert "14 of 54 people" in found.in_words()


def test_what_was_said_before_a_release_is_no_evidence() -> None:
    trials = crowd() + said("odd", 0, 40)
    last = max(trial.vote.at for trial in trials if trial.vote.rater == "odd")
    assert review(votes(trials), trials, SETTINGS, {"odd": last}).findings == ()
    assert review(votes(trials), trials, SETTINGS, {"odd": last - 19 * 3_600_000}).findings == (), "19 words since"
    (again,) = review(votes(trials), trials, SETTINGS, {"odd": last - 20 * 3_600_000}).findings
    assert (again.evidence.words, again.evidence.agreed) == (20, 0)


def test_always_the_same_is_no_fault_in_who_chooses_what_to_praise() -> None:
    """Everybody's thumbs are up half the time. 20 times up has a chance of 1 in a million; but one of the two praises
    what others find good, and the other anything."""
    trials = crowd() + said("glad", 15, 20, up=True) + said("robot", 11, 20, up=True)
    (finding,) = review(votes(trials), trials, SETTINGS, {}).findings
    assert (finding.rater, finding.evidence.test) == ("robot", "constant")
    assert finding.evidence.p_value == pytest.approx((440 / 840) ** 20)
    assert finding.why.startswith("all 20 thumbs are up, of people's 52%, and 11 of 20")


def burst(agreed: int, *, count: int = 30, start: int = 50 * WINDOW_MS) -> list[Trial]:
    """People with three words each within a minute."""
    found = []
    for number in range(count):
        for n in range(3):
            vote = Vote(f"b{number}/{n}", f"b{number}", start + 1_000 * number + n, key(n), key(n + 1))
            found.append(Trial(vote, "predicted", n < agreed))
    return found


def test_many_who_come_at_once_are_tested_together() -> None:
    before = [
        Trial(Vote(f"v{n}", f"v{n}", n * WINDOW_MS // 2, key(n), key(n + 1)), "predicted", n % 4 > 0) for n in range(90)
    ]
    honest_ones, others = crowd(people=100) + before + burst(2), crowd(people=100) + before + burst(1)
    assert [len(one) for one in bursts_of(votes(honest_ones))] == [30]
    assert review(votes(honest_ones), honest_ones, SETTINGS, {}).findings == ()
    found = review(votes(others), others, SETTINGS, {}).findings
    assert {finding.rater for finding in found} == {f"b{number}" for number in range(30)}
    assert {finding.evidence.test for finding in found} == {"burst"}
    assert found[0].evidence.words == 90, "together, where three words each tell nothing"


def test_a_steady_stream_of_visitors_is_no_burst() -> None:
    steady = [Vote(f"v{n}", f"v{n}", n * WINDOW_MS // 8, key(n)) for n in range(400)]
    assert bursts_of(steady) == []
    assert bursts_of([]) == []


@pytest.mark.parametrize("seed", range(3))
def test_flippers_and_bots_are_caught_and_honest_people_are_not(seed: int) -> None:
    """90 honest people with 30 words each and 60 with 8; 10 who turn their votes round (60 words), 5 who always press
    up and 5 who roll dice (300 words): 20 of 170 people, with a third of the words. More than a quarter of what honest
    people say is a slip. At least 9 of 10, 4 of 5 and 2 of 5 are caught, and of 150 honest people one at most.
    """
    people = Crowd(seed)
    believed = people.come("honest", 90, 30, honest) + people.come("brief", 60, 8, honest)
    flippers = people.come("turned", 10, 60, turned)
    robots = people.come("up", 5, 60, always_up)
    dicers = people.come("dice", 5, 300, dice)
    failed = {finding.rater for finding in people.reviewed().findings}
    assert len(failed & set(flippers)) >= 9
    assert len(failed & set(robots)) >= 4
    assert len(failed & set(dicers)) >= 2
    assert len(failed & set(believed)) <= 1


def test_an_honest_crowd_of_strong_tastes_is_left_alone() -> None:
    """As much taste of one's own as shared: people agree less, and nobody is called a bot for it."""
    for seed in range(3):
        people = Crowd(seed, own_taste=1.0)
        people.come("honest", 120, 40, honest)
        assert len(people.reviewed().findings) <= 1
