"""Shuffled verdicts keep their frequencies and lose their meaning; flipped ones mean the opposite."""

import random
from collections import Counter

import pytest

from deploy.demo.users import Verdict
from deploy.demo.verdicts import HELD, Verdicts


def test_verdicts_are_sent_as_they_are_meant() -> None:
    verdicts = Verdicts()
    assert [verdicts.thumb(up) for up in (True, False)] == [True, False]
    assert [verdicts.comparison(verdict) for verdict in Verdict] == list(Verdict)


def test_flipped_verdicts_mean_the_opposite_until_flipped_back() -> None:
    verdicts = Verdicts(flipped=True)
    assert [verdicts.thumb(up) for up in (True, False)] == [False, True]
    turned = [Verdict.SECOND, Verdict.FIRST, Verdict.TIE, Verdict.BOTH_BAD]
    assert [verdicts.comparison(verdict) for verdict in Verdict] == turned
    verdicts.flipped = False
    assert verdicts.thumb(True)


def test_shuffled_thumbs_keep_their_share_and_say_nothing() -> None:
    rng, verdicts = random.Random(1), Verdicts(seed=2, shuffled=True)
    meant = [rng.random() < 0.3 for _ in range(4000)]
    sent = [verdicts.thumb(up) for up in meant]
    assert abs(sum(sent) - sum(meant)) <= HELD
    share = sum(sent) / len(sent)
    among_ups = [press for up, press in zip(meant, sent, strict=True) if up]
    assert sum(among_ups) / len(among_ups) == pytest.approx(share, abs=0.04)  # 3 standard errors


def test_shuffled_comparisons_keep_their_shares_and_say_nothing() -> None:
    rng, verdicts = random.Random(3), Verdicts(seed=4, shuffled=True)
    meant = rng.choices(list(Verdict), [5, 1, 2, 2], k=4000)
    sent = [verdicts.comparison(verdict) for verdict in meant]
    before, after = Counter(meant), Counter(sent)
    assert all(abs(before[verdict] - after[verdict]) <= HELD for verdict in Verdict)
    agree = sum(one is other for one, other in zip(meant, sent, strict=True)) / len(meant)
    chance = sum((count / len(meant)) ** 2 for count in before.values())
    assert agree == pytest.approx(chance, abs=0.03)


def test_a_verdict_is_never_dealt_to_its_own_answer() -> None:
    verdicts = Verdicts(seed=5, shuffled=True)
    for _ in range(200):
        verdicts.thumb(False)
    assert not verdicts.thumb(True)  # only others' are dealt
    assert verdicts._thumbs.held.count(True) == 1


def test_equal_seeds_deal_equally() -> None:
    meant = [number % 3 == 0 for number in range(50)]
    dealt = [[verdicts.thumb(up) for up in meant] for verdicts in (Verdicts(6, True), Verdicts(6, True))]
    assert dealt[0] == dealt[1]
