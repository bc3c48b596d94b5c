"""Words are found by their id on every log."""

from __future__ import annotations

import pytest

from exchange.log.port import EventLog
from exchange.reading.accepted import AcceptedWords
from schemas.base import new_id
from schemas.errors import NotFound
from schemas.wire import encode_event
from tests.factories import Maker


def test_words_are_found_where_they_lie_new_ones_and_old(log: EventLog) -> None:
    make = Maker()
    words = [make.thumb(make.completion(n, id=new_id("cmpl")), id=new_id("fb")) for n in range(40)]
    positions = log.append([encode_event(word) for word in words])
    known, few = AcceptedWords(log), AcceptedWords(log, limit=6)
    for word, position in zip(words, positions, strict=True):
        assert known.find(word.id, search=False).position == position
    found = few.find(words[0].id, search=True)
    assert (found.event, found.position) == (words[0], positions[0])
    late = make.thumb(make.completion(99, id=new_id("cmpl")), id=new_id("fb"))
    (position,) = log.append([encode_event(late)])
    assert known.find(late.id, search=False).position == position
    with pytest.raises(NotFound):
        known.find(new_id("fb"), search=True)
    known.close()
    few.close()
