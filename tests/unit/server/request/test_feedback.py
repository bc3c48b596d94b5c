"""Feedback, displayed and consent: whose handle, what may be said of what, and when it counts as said."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schemas.base import now_ms
from schemas.completion import ConsentLevel
from schemas.events import AnswerDisplayed, ConsentChanged
from schemas.feedback import ComparisonTarget, FeedbackContent, FeedbackReceived, FeedbackSource
from schemas.handles import Keyring, issue_handle, verify_handle
from schemas.topics import CONSENTS
from server.request.mount import install_request_path
from tests.unit.server.request.conftest import World


async def handle_of(world: World, **chat: Any) -> str:
    return str((await world.chat(**chat)).json()["attune"]["handles"][0])


async def comparison_of(world: World, **chat: Any) -> dict[str, Any]:
    return dict((await world.chat(path="/v1/comparisons", **chat)).json())


def received(world: World) -> list[FeedbackReceived]:
    return [event for event in world.feedback() if isinstance(event, FeedbackReceived)]


async def test_a_thumb_from_a_browser_is_durable_when_it_is_answered(world: World) -> None:
    handle = await handle_of(world, user="ann")
    body = {"handle": handle, "kind": "thumbs", "value": "up", "aspects": {"tone": 0.5}, "reasons": ["clear"]}
    response = await world.post("/v1/feedback", body, key=None)
    assert response.status_code == 200
    (completion,), (event,) = world.completions(), received(world)
    assert response.json() == {"id": event.id, "status": "stored", "durable": "log"}
    assert (event.conversation, event.end_user) == (completion.conversation, completion.end_user)
    assert event.target.model_dump() == {
        "kind": "answer",
        "completion_id": completion.completion_id,
        "choice": 0,
        "version": 1,
    }
    assert (event.api_key_id, event.source, event.content) == (None, FeedbackSource.USER, None)
    assert (event.aspects, event.reasons) == ({"tone": 0.5}, ("clear",))
    assert world.metric("attune_feedback_total", policy="support", kind="thumbs", outcome="stored") == 1


async def test_words_are_sealed_under_the_key_of_whoever_they_are_about(world: World) -> None:
    handle = await handle_of(world, user="ann")
    body = {"handle": handle, "kind": "correction", "text": "my own words", "comment": "tut tut"}
    assert (await world.post("/v1/feedback", body)).status_code == 200
    (event,) = received(world)
    assert event.content is not None
    assert "own words" not in event.model_dump_json()
    content = FeedbackContent.model_validate_json(world.opened(event.content, event.id))
    assert content == FeedbackContent(comment="tut tut", correction="my own words")
    assert event.content.subject == event.end_user
    assert event.api_key_id is not None


async def test_handles_that_prove_nothing_are_refused(world: World) -> None:
    handle = await handle_of(world)
    claims = verify_handle(handle, world.secrets.keyring, now=0)
    expired = issue_handle(claims.model_copy(update={"expires_at": now_ms() - 1}), world.secrets.keyring)
    stranger = issue_handle(
        claims, Keyring(active=world.secrets.active_handle_key, keys={world.secrets.active_handle_key: b"x" * 32})
    )
    unknown = issue_handle(claims, Keyring(active="zz", keys={"zz": b"x" * 32}))
    flipped = handle[:-5] + ("A" if handle[-5] != "A" else "B") + handle[-4:]
    for bad, status, code in (
        ("nonsense", 400, "handle_malformed"),
        (expired, 403, "handle_expired"),
        (stranger, 403, "handle_forged"),
        (flipped, 403, "handle_forged"),
        (unknown, 403, "handle_unknown_key"),
    ):
        for path, more in (("/v1/feedback", {"kind": "thumbs", "value": "up"}), ("/v1/displayed", {})):
            response = await world.post(path, {"handle": bad, **more}, key=None)
            assert (response.status_code, response.json()["error"]["code"]) == (status, code)
            assert response.json()["error"]["param"] == "handle"
    for path, more in (("/v1/feedback", {"kind": "thumbs", "value": "up"}), ("/v1/displayed", {})):
        foreign = await world.post(path, {"handle": handle, **more}, key="other")
        assert (foreign.status_code, foreign.json()["error"]["code"]) == (403, "handle_foreign")
    assert world.feedback() == []


async def test_keys_that_are_sent_must_be_valid_and_have_the_right(world: World) -> None:
    body = {"handle": await handle_of(world), "kind": "thumbs", "value": "up"}
    assert (await world.post("/v1/feedback", body, key="ak_no_good")).status_code == 401
    assert (await world.post("/v1/feedback", body, key="reader")).status_code == 403
    for source in ("rater", "ai", "implicit"):
        for key in (None, "acme"):
            refused = await world.post("/v1/feedback", {**body, "source": source}, key=key)
            assert (refused.status_code, refused.json()["error"]["param"]) == (403, "source")
        assert (await world.post("/v1/feedback", {**body, "source": source}, key="rater")).status_code == 200
    assert [event.source.value for event in received(world)] == ["rater", "ai", "implicit"]


async def test_a_model_says_who_it_is_and_by_what_it_judges(world: World) -> None:
    judge = {"model": "org/judge-8b", "constitution": "a" * 64}
    body = {"handle": await handle_of(world), "kind": "thumbs", "value": "up", "labeller": judge}
    assert (await world.post("/v1/feedback", {**body, "source": "ai"}, key="rater")).status_code == 200
    (event,) = received(world)
    assert event.labeller is not None
    assert event.labeller.model_dump() == judge
    for wrong in (
        {"source": "rater"},
        {"source": "ai", "labeller": judge | {"temperature": 0}},
        {"source": "ai", "labeller": judge | {"constitution": "short"}},
        {"source": "ai", "labeller": judge | {"model": "a\nb"}},
    ):
        refused = await world.post("/v1/feedback", {**body, **wrong}, key="rater")
        assert refused.status_code == 400, refused.text
        assert "labeller" in refused.json()["error"]["message"] + str(refused.json()["error"]["param"])


async def test_signals_fit_their_targets(world: World) -> None:
    answer, comparison = await handle_of(world), (await comparison_of(world, k=3))["handle"]
    for handle, body, field in (
        (answer, {"kind": "comparison", "winner": 0}, "kind"),
        (answer, {"kind": "ranking", "order": [[0], [1]]}, "kind"),
        (comparison, {"kind": "thumbs", "value": "up"}, "kind"),
        (comparison, {"kind": "rating", "stars": 3}, "kind"),
        (comparison, {"kind": "correction", "text": "x"}, "kind"),
        (comparison, {"kind": "comparison", "winner": 3}, "winner"),
        (comparison, {"kind": "ranking", "order": [[0], [1]]}, "order"),
        (comparison, {"kind": "ranking", "order": [[0], [1], [2], [3]]}, "order"),
    ):
        refused = await world.post("/v1/feedback", {"handle": handle, **body})
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, field), refused.text
    for handle, body in (
        (comparison, {"kind": "comparison", "winner": 2}),
        (comparison, {"kind": "comparison", "verdict": "both_bad"}),
        (comparison, {"kind": "ranking", "order": [[2], [0, 1]]}),
        (comparison, {"kind": "comment", "comment": "hm"}),
        (answer, {"kind": "outcome", "name": "resolved", "value": True}),
        (answer, {"kind": "retraction", "supersedes": "fb_1"}),
    ):
        assert (await world.post("/v1/feedback", {"handle": handle, **body})).status_code == 200
    assert len(received(world)) == 6


@pytest.mark.parametrize(
    ("body", "field", "says"),
    [
        ({}, "kind", "thumbs"),
        ({"kind": "applause"}, "kind", "thumbs"),
        ({"kind": "thumbs"}, "value", "required"),
        ({"kind": "thumbs", "value": "sideways"}, "value", "'up' or 'down'"),
        ({"kind": "thumbs", "value": "up", "colour": "red"}, "colour", "not known"),
        ({"kind": "rating", "stars": 6}, "stars", "5"),
        ({"kind": "thumbs", "value": "up", "aspects": {"tone": 2}}, "aspects.tone", "1"),
        ({"kind": "comparison", "verdict": "tie", "winner": 1}, None, "winner"),
        ({"kind": "correction", "text": ""}, "text", "1 character"),
    ],
)
async def test_nonsense_is_refused_by_name(world: World, body: dict[str, Any], field: str | None, says: str) -> None:
    response = await world.post("/v1/feedback", {"handle": "h", **body}, key=None)
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["param"] == field
    assert says in error["message"]
    assert "red" not in error["message"].replace("required", "")


async def test_the_same_key_gives_the_same_answer_on_every_replica(world: World) -> None:
    body = {"handle": await handle_of(world), "kind": "thumbs", "value": "up", "idempotency_key": "click-1"}
    first = await world.post("/v1/feedback", body)
    second = await world.post("/v1/feedback", body)
    assert first.json() == second.json()
    assert len(received(world)) == 1
    assert world.metric("attune_feedback_total", policy="support", kind="thumbs", outcome="repeated") == 1
    clash = await world.post("/v1/feedback", {**body, "value": "down"})
    assert (clash.status_code, clash.json()["error"]["param"]) == (409, "idempotency_key")

    from fastapi import FastAPI
    from httpx import ASGITransport, AsyncClient

    replica = FastAPI()
    install_request_path(replica, world.path)
    async with AsyncClient(transport=ASGITransport(replica), base_url="http://replica") as client:
        third = await client.post("/v1/feedback", json=body)
    assert third.json() == first.json()
    assert {event.id for event in received(world)} == {first.json()["id"]}

    elsewhere = await world.post("/v1/feedback", {**body, "handle": await handle_of(world)})
    assert elsewhere.json()["id"] != first.json()["id"], "keys count within a conversation"


async def test_without_a_key_every_word_is_its_own(world: World) -> None:
    body = {"handle": await handle_of(world), "kind": "thumbs", "value": "up"}
    ids = {(await world.post("/v1/feedback", body)).json()["id"] for _ in range(3)}
    assert len(ids) == 3


async def test_while_the_log_is_away_nothing_is_acknowledged_and_chats_go_on(world: World) -> None:
    body = {"handle": await handle_of(world), "kind": "thumbs", "value": "up", "idempotency_key": "click-1"}
    world.settle()
    world.log.close()
    for value in ("up", "down"):  # what was never stored does not bind its key
        response = await world.post("/v1/feedback", {**body, "value": value})
        assert response.status_code == 503
        assert int(response.headers["retry-after"]) > 0
    assert (await world.chat()).status_code == 200
    world.settle()
    assert world.metric("attune_completions_recorded_total", policy="support", outcome="failed") == 1
    assert world.metric("attune_feedback_total", policy="support", kind="thumbs", outcome="unavailable") == 2


async def test_displayed_names_what_was_shown_and_counts_once(world: World) -> None:
    handle = await handle_of(world)
    first = await world.post("/v1/displayed", {"handle": handle}, key=None)
    again = await world.post("/v1/displayed", {"handle": handle}, key=None)
    assert first.json() == again.json()
    events = [event for event in world.feedback() if isinstance(event, AnswerDisplayed)]
    assert {event.id for event in events} == {first.json()["id"]}
    assert events[0].surface == "chat"
    assert events[0].candidates[0].completion_id == world.completions()[0].completion_id


async def test_consent_changes_for_every_policy_of_the_key(world: World) -> None:
    await world.chat(user="ann")
    changed = await world.post("/v1/consent", {"user": "ann", "level": "none"})
    assert changed.json() == {"level": "none", "status": "stored", "durable": "log"}
    events = [event for event in world.events(CONSENTS) if isinstance(event, ConsentChanged)]
    assert {(event.policy, event.level) for event in events} == {
        ("support", ConsentLevel.NONE),
        ("sales", ConsentLevel.NONE),
    }
    assert {event.end_user for event in events} == {world.completions()[0].end_user}
    await world.post("/v1/consent", {"user": "ann", "level": "train", "policy": "sales"}, key="sales")
    assert len(world.events(CONSENTS)) == 3
    assert (
        await world.post("/v1/consent", {"user": "ann", "level": "train", "policy": "support"}, key="sales")
    ).status_code == 404
    assert (await world.post("/v1/consent", {"user": "ann", "level": "train"}, key=None)).status_code == 401
    assert (await world.post("/v1/consent", {"user": "ann", "level": "all"})).status_code == 400


async def test_browsers_may_call_from_the_allowed_origins_alone(world: World) -> None:
    ask = {"origin": "https://app.example.com", "access-control-request-method": "POST"}
    for path in ("/v1/feedback", "/v1/displayed"):
        allowed = await world.client.options(path, headers=ask)
        assert allowed.headers["access-control-allow-origin"] == "https://app.example.com"
        refused = await world.client.options(path, headers={**ask, "origin": "https://evil.example"})
        assert "access-control-allow-origin" not in refused.headers
    other = await world.client.options("/v1/consent", headers=ask)
    assert "access-control-allow-origin" not in other.headers
    handle = await handle_of(world)
    sent = {"handle": handle, "kind": "thumbs", "value": "up"}
    response = await world.post("/v1/feedback", sent, key=None, headers={"origin": "https://app.example.com"})
    assert response.headers["access-control-allow-origin"] == "https://app.example.com"


@pytest.mark.parametrize("value", [10**400, -(10**400), 2**63, 1e308, 5, -0.0, True, "1", None, [], "x" * 9_999])
async def test_outcomes_of_any_size_are_stored_as_they_are_or_refused(world: World, value: Any) -> None:
    body = {"handle": await handle_of(world), "kind": "outcome", "name": "cost", "value": value}
    response = await world.post("/v1/feedback", body)
    assert response.status_code in (200, 400)
    if response.status_code == 200:
        (event,) = received(world)
        assert event.signal.value == (float(value) if isinstance(value, str) else value)  # type: ignore[union-attr]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
NAMES = """
    kind value stars verdict winner order text comment name supersedes aspects reasons source idempotency_key user level
    policy model messages n stream session_id metadata safety_identifier k versions temperature seed stop
"""
FIELDS = st.sampled_from(NAMES.split())
VALID: dict[str, dict[str, Any]] = {
    "thumbs": {"value": "up"},
    "rating": {"stars": 3},
    "comparison": {"winner": 1},
    "ranking": {"order": [[1], [0]]},
    "correction": {"text": "so"},
    "comment": {"comment": "hm"},
    "outcome": {"name": "resolved", "value": 1},
    "retraction": {"supersedes": "fb_1"},
}
KINDS = st.sampled_from(list(VALID))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    path=st.sampled_from(["/v1/feedback", "/v1/displayed", "/v1/consent", "/v1/chat/completions", "/v1/comparisons"]),
    body=st.dictionaries(FIELDS, JSON, max_size=5),
    kind=KINDS,
    well_formed=st.booleans(),
    which=st.sampled_from(["answer", "comparison"]),
)
async def test_no_body_brings_the_server_down(
    world: World, path: str, body: dict[str, Any], kind: str, well_formed: bool, which: str
) -> None:
    claims_handle = await handle_of(world)
    if which == "comparison":
        claims = verify_handle(claims_handle, world.secrets.keyring, now=0)
        ref = claims.target.model_dump()
        target = ComparisonTarget(comparison_id="cmp_1", candidates=(ref, ref))
        claims_handle = issue_handle(claims.model_copy(update={"target": target}), world.secrets.keyring)
    sent = {"handle": claims_handle, **body} if "feedback" in path or "displayed" in path else body
    if well_formed and path == "/v1/feedback":
        sent = {"handle": claims_handle, "kind": kind, **VALID[kind], **dict(list(body.items())[:1])}
    if well_formed and path in ("/v1/chat/completions", "/v1/comparisons"):
        sent = {"model": "support", "messages": [{"role": "user", "content": "x"}], **body}
    response = await world.post(path, sent)
    assert response.status_code < 500, response.text
    if response.status_code >= 400:
        assert set(response.json()["error"]) >= {"message", "type", "param", "code"}
