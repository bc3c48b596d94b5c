"""Logprobs find their tokens, or there are none."""

from __future__ import annotations

from server.engine.taken import Taken


def test_each_choice_gives_its_logprobs_in_the_pieces_that_were_handed_on() -> None:
    taken = Taken("r", choices=2)
    taken.add(0, 5, -0.5)
    taken.add(1, 9, -9.0)
    assert taken.logprobs_of(0, [5], cumulative=False) == [-0.5]
    for token_id, logprob in ((6, -0.25), (7, -1.0), (8, -2.0)):
        taken.add(0, token_id, logprob)
    assert taken.logprobs_of(0, [6, 7], cumulative=False) == [-0.25, -1.0]
    assert taken.logprobs_of(0, [], cumulative=False) == []
    assert taken.logprobs_of(0, [8], cumulative=False) == [-2.0]
    assert taken.logprobs_of(1, [9], cumulative=False) == [-9.0]


def test_whole_answers_may_be_asked_for_again() -> None:
    taken = Taken("r", choices=1)
    taken.add(0, 5, -0.5)
    assert taken.logprobs_of(0, (5,), cumulative=True) == [-0.5]
    taken.add(0, 6, -0.25)
    assert taken.logprobs_of(0, (5, 6), cumulative=True) == [-0.5, -0.25]


def test_other_tokens_have_no_logprobs() -> None:
    taken = Taken("r", choices=1)
    taken.add(0, 5, -0.5)
    taken.add(0, 6, -0.25)
    assert taken.logprobs_of(0, [5, 7], cumulative=False) is None
    assert taken.logprobs_of(0, [5, 6, 7], cumulative=False) is None
