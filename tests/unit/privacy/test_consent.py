"""What each consent level allows, from the request to the next snapshot, over a SQLite log, on every replica."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from exchange.log.memory import MemoryLog
from schemas.completion import CompletionRecorded, Consent, ConsentLevel
from schemas.event import Event
from schemas.wire import decode_event
from server.pseudonyms import end_user
from server.secrets import load_secrets
from tests.unit.privacy.test_bytes import Site, _records, open_site
from tests.unit.server.control.whole import open_server
from tests.unit.server.control.world import until


async def talk(site: Site, user: str, *, consent: str | None = None) -> dict[str, Any]:
    """A chat with a thumb where there is something to speak of."""
    headers = site.app_key | ({"attune-consent": consent} if consent else {})
    asked = {"model": "support", "messages": [{"role": "user", "content": f"hello from {user}"}], "user": user}
    answer = await site.http.post("/v1/chat/completions", json=asked, headers=headers)
    assert answer.status_code == 200
    found: dict[str, Any] = answer.json()
    for handle in found["attune"]["handles"]:
        await site.post("/v1/feedback", {"handle": handle, "kind": "thumbs", "value": "up"})
    site.settle()
    return found


def events(site: Site) -> list[Event]:
    return [decode_event(record.value, record.headers) for record in _records(site.log)]


def in_snapshot(site: Site, number: int) -> dict[str, int]:
    """Answers in the next snapshot by person, as training would read them."""
    _, answers = site.turn(number)
    secret = load_secrets(site.folder / "data").pseudonym_key
    people = {end_user(secret, "acme", name): name for name in ("ann", "bob", "carl", "dora")}
    counts: dict[str, int] = {}
    for answer in answers:
        counts[people[answer.group]] = counts.get(people[answer.group], 0) + 1
    return counts


async def test_none_serves_only_store_records_and_train_trains(tmp_path: Path) -> None:
    async with open_site(tmp_path) as site:
        unrecorded = await talk(site, "ann", consent="none")
        stored = await talk(site, "bob", consent="store")
        await talk(site, "carl", consent="train")
        await talk(site, "dora")
        assert unrecorded["choices"][0]["message"]["content"], "served"
        assert unrecorded["attune"]["handles"] == []
        recorded = {event.completion_id for event in events(site) if isinstance(event, CompletionRecorded)}
        assert unrecorded["attune"]["completion_id"] not in recorded
        assert stored["attune"]["completion_id"] in recorded
        assert len(recorded) == 3
        assert in_snapshot(site, 1) == {"carl": 1, "dora": 1}


async def test_a_change_of_mind_takes_effect_on_the_next_snapshot(tmp_path: Path) -> None:
    async with open_site(tmp_path) as site:
        await talk(site, "ann")
        await talk(site, "bob")
        assert in_snapshot(site, 1) == {"ann": 1, "bob": 1}

        await site.post("/v1/consent", {"user": "ann", "level": "store"})
        await talk(site, "ann")
        assert in_snapshot(site, 2) == {"bob": 1}, "no row of hers, from before or after"

        await site.post("/v1/consent", {"user": "ann", "level": "train"})
        await talk(site, "ann")
        assert in_snapshot(site, 3) == {"ann": 2, "bob": 1}, "from before and from now, never from in between"


async def test_who_said_none_is_served_and_leaves_nothing_on_the_log_whatever_the_app_sends(tmp_path: Path) -> None:
    async with open_site(tmp_path) as site:
        old = await talk(site, "ann")
        await site.post("/v1/consent", {"user": "ann", "level": "none"})
        site.settle()
        before = len(_records(site.log))
        for consent in (None, "train", "store"):
            answer = await talk(site, "ann", consent=consent)
            assert answer["choices"][0]["message"]["content"], "served"
            assert answer["attune"]["handles"] == []
        asked = {"model": "support", "messages": [{"role": "user", "content": "hello"}], "user": "ann", "k": 2}
        assert (await site.post("/v1/comparisons", asked))["handle"] is None
        handle = old["attune"]["handles"][0]
        for path, body in (
            ("/v1/feedback", {"kind": "comment", "comment": "words of hers"}),
            ("/v1/feedback", {"kind": "thumbs", "value": "up"}),
            ("/v1/displayed", {}),
        ):
            refused = await site.http.post(path, json={"handle": handle, **body}, headers=site.app_key)
            assert refused.status_code == 403, "a handle from before"
            assert "lets nothing of theirs be kept" in refused.json()["error"]["message"]
        site.settle()
        assert len(_records(site.log)) == before

        await site.post("/v1/consent", {"user": "ann", "level": "store"})
        kept = await talk(site, "ann", consent="train")
        event = next(
            one for one in events(site) if getattr(one, "completion_id", "") == kept["attune"]["completion_id"]
        )
        assert isinstance(event, CompletionRecorded)
        assert event.consent == Consent(level=ConsentLevel.STORE, source="event"), "never more than she said"
        asks_less = await talk(site, "ann", consent="none")
        assert asks_less["attune"]["handles"] == []


async def test_a_change_reaches_the_next_request_of_every_replica(tmp_path: Path) -> None:
    log = MemoryLog()
    chat = {"model": "support", "messages": [{"role": "user", "content": "hello"}], "user": "ann"}
    secrets = load_secrets(tmp_path / "one" / "data")
    shutil.copytree(tmp_path / "one", tmp_path / "two")  # replicas share their secrets
    ann = end_user(secrets.pseudonym_key, "acme", "ann")
    async with open_server(tmp_path / "one", log=log) as one, open_server(tmp_path / "two", log=log) as two:
        for level, handles in (("none", 0), ("train", 1)):
            told = await one.send("/v1/consent", {"user": "ann", "level": level})
            assert told.status_code == 200
            here = await one.send("/v1/chat/completions", chat)
            assert len(here.json()["attune"]["handles"]) == handles, "at once, where it was said"
            await until(lambda wanted=level: two.application.consents.said_by(ann).value == wanted)
            there = await two.send("/v1/chat/completions", chat)
            assert len(there.json()["attune"]["handles"]) == handles
