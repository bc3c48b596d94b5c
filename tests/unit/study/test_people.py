"""A world depends on its seed alone, and what is done to it changes only what it says."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import httpx

from tests.bench.study.people import ATTACKERS, Circumstances, Talk

SMALL = Circumstances(7, words=12, answers=300)


async def _at_once(_: float) -> None:
    pass


async def _talk(world: Circumstances) -> tuple[Talk, list[tuple[str, dict[str, Any]]]]:
    """What its people send to a server that gives every question an answer by its length."""
    sent: list[tuple[str, dict[str, Any]]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content)
        sent.append((request.url.path, body))
        if request.url.path == "/v1/feedback":
            return httpx.Response(200, json={"id": "fb"})
        text = "Thank you for writing to us." if body["seed"] % 2 else "What a silly question. Learn to read."
        if request.url.path == "/v1/comparisons":
            return httpx.Response(200, json={"handle": "h", "candidates": [{"content": text}, {"content": text[::-1]}]})
        choice = {"message": {"content": text}}
        return httpx.Response(200, json={"attune": {"handles": ["h"]}, "choices": [choice]})

    async with httpx.AsyncClient(transport=httpx.MockTransport(answer), base_url="http://server") as http:
        talk = Talk(world, http)
        await talk.run(_at_once)
    return talk, sent


async def test_equal_worlds_send_the_same_and_others_do_not() -> None:
    talk, sent = await _talk(SMALL)
    again, repeated = await _talk(SMALL)
    assert sent == repeated
    assert talk.counts == again.counts
    assert talk.counts["words"] >= SMALL.words
    _, other = await _talk(Circumstances(8, words=12, answers=300))
    assert [body for _, body in sent[:20]] != [body for _, body in other[:20]]


async def test_flipped_worlds_ask_the_same_and_say_other_things() -> None:
    _, plain = await _talk(SMALL)
    _, flipped = await _talk(Circumstances(7, words=12, answers=300, flips=1.0))
    asked = [[body["messages"] for path, body in some if path != "/v1/feedback"] for some in (plain, flipped)]
    assert asked[0][:90] == asked[1][:90]
    first = [next(body for path, body in some if body.get("kind") == "thumbs") for some in (plain, flipped)]
    assert first[0]["value"] != first[1]["value"]


async def test_attackers_press_always_and_have_their_share_of_the_words() -> None:
    talk, sent = await _talk(Circumstances(7, words=40, answers=300, attack="bots", attackers=0.3))
    asked = Counter(body["user"] for path, body in sent if path != "/v1/feedback")
    theirs = {name: count for name, count in asked.items() if name.startswith("bot-attack")}
    assert len(theirs) == ATTACKERS
    assert talk.counts["attacks"] == sum(theirs.values())
    assert 0.15 < talk.counts["attacks"] / (talk.counts["attacks"] + talk.counts["words"]) < 0.45


def test_words_are_made_rare_where_answers_are_many() -> None:
    assert Circumstances(1, words=3000, answers=3000).restraint == 1.0
    assert Circumstances(1, words=100, answers=3000).restraint < 0.1
