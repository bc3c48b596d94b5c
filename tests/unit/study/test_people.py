"""A world depends on its seed alone, and what is done to it changes only what it says."""

from __future__ import annotations

import json
from typing import Any

import httpx

from tests.bench.study.people import PEOPLE, Circumstances, Talk, accounts

SMALL = Circumstances(7, words=12, answers=300)


async def _nothing() -> None:
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
        await talk.run(_nothing)
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


async def test_attackers_join_the_others_and_press_always() -> None:
    world = Circumstances(7, words=12, answers=300, attack="bots", attackers=0.1)
    names = [user.taste.name for user in accounts(world)]
    assert len(names) - PEOPLE == names.count("bot-attack") == 13
    assert accounts(world)[:PEOPLE] == accounts(SMALL)
    talk, _ = await _talk(world)
    assert talk.counts["attacks"] > 0.07 * talk.counts["questions"]


def test_words_are_made_rare_where_answers_are_many() -> None:
    assert Circumstances(1, words=3000, answers=3000).restraint == 1.0
    assert Circumstances(1, words=100, answers=3000).restraint < 0.1
