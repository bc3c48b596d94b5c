"""TensorZero's feedback body: who may send it, what it becomes, and what it may speak of."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from schemas.completion import ConsentLevel
from schemas.feedback import AnswerTarget, FeedbackContent, FeedbackReceived
from server.auth import Scope
from tests.unit.server.request.conftest import World


async def answered(world: World, **chat: Any) -> dict[str, Any]:
    return dict((await world.chat(**chat)).json())


async def metric(world: World, key: str | None = "by-id", **body: Any) -> httpx.Response:
    return await world.post("/v1/feedback", body, key)


def words(world: World) -> list[FeedbackReceived]:
    return [event for event in world.feedback() if isinstance(event, FeedbackReceived)]


async def kept(world: World, **body: Any) -> FeedbackReceived:
    response = await metric(world, **body)
    assert response.status_code == 200, response.text
    event = words(world)[-1]
    assert response.json() == {"feedback_id": event.id, "id": event.id, "status": "stored", "durable": "log"}
    return event


@pytest.mark.parametrize(
    ("name", "value", "signal"),
    [
        ("thumbs_up", True, {"kind": "thumbs", "value": "up"}),
        ("thumbs_up", False, {"kind": "thumbs", "value": "down"}),
        ("resolved", True, {"kind": "outcome", "name": "resolved", "value": True}),
        ("stars", 4, {"kind": "outcome", "name": "stars", "value": 4.0}),
        ("thumbs_up", 0.5, {"kind": "outcome", "name": "thumbs_up", "value": 0.5}),
    ],
)
async def test_metrics_become_our_kinds_of_feedback(world: World, name: str, value: Any, signal: Any) -> None:
    answer = await answered(world, user="ann")
    event = await kept(world, inference_id=answer["id"], metric_name=name, value=value)
    (completion,) = world.completions()
    assert event.signal.model_dump() == signal
    assert event.target == AnswerTarget(completion_id=completion.completion_id, choice=0, version=1)
    assert (event.end_user, event.conversation) == (completion.end_user, completion.conversation)
    assert (event.tenant, event.policy, event.content) == ("acme", "support", None)
    assert event.api_key_id == world.path.auth.authenticate(f"Bearer {world.keys['by-id']}").id
    assert world.metric("attune_feedback_total", policy="support", kind=signal["kind"], outcome="stored") == 1


async def test_texts_and_tags_are_sealed_for_the_person(world: World) -> None:
    answer = await answered(world, user="ann")
    name = answer["attune"]["completion_id"]
    comment = await kept(
        world, inference_id=name, metric_name="comment", value="well said", tags={"author": "someone", "user_id": "123"}
    )
    blocks = [{"type": "text", "text": "say "}, {"type": "text", "text": "this"}]
    edit = await kept(world, inference_id=name, metric_name="demonstration", value=blocks)
    for event, kind, content in (
        (comment, "comment", FeedbackContent(comment="well said", tags={"author": "someone", "user_id": "123"})),
        (edit, "correction", FeedbackContent(correction="say this")),
    ):
        assert event.signal.kind == kind
        assert event.content is not None
        assert "someone" not in event.model_dump_json()
        assert event.content.subject == world.completions()[0].end_user
        assert FeedbackContent.model_validate_json(world.opened(event.content, event.id)) == content


async def test_an_episode_is_a_session_and_its_newest_answer(world: World) -> None:
    await answered(world, session_id="s-1")
    world.settle()
    newest = await answered(world, session_id="s-1")
    event = await kept(world, episode_id="s-1", metric_name="resolved", value=True)
    assert isinstance(event.target, AnswerTarget)
    assert event.target.completion_id == newest["attune"]["completion_id"]
    assert (await metric(world, episode_id="s-2", metric_name="resolved", value=True)).status_code == 404


async def test_a_dry_run_is_answered_and_not_kept(world: World) -> None:
    answer = await answered(world)
    response = await metric(world, inference_id=answer["id"], metric_name="resolved", value=True, dryrun=True)
    assert (response.status_code, response.json()["status"]) == (200, "dry_run")
    assert words(world) == []


async def test_only_a_key_with_the_right_may_name_a_completion(world: World) -> None:
    answer = await answered(world)
    said = {"inference_id": answer["id"], "metric_name": "resolved", "value": True}
    for key, status in ((None, 401), ("acme", 403), ("rater", 403), ("reader", 403), ("other", 403)):
        assert (await metric(world, key, **said)).status_code == status, key
    no_feedback = world.path.auth.create(
        tenant="acme", scopes=(Scope.CHAT,), default_consent=ConsentLevel.TRAIN, may_name_completions=True
    )[1]
    assert (await metric(world, no_feedback, **said)).status_code == 403
    assert words(world) == []


async def test_anothers_completion_is_as_unknown_as_one_that_is_not_there(world: World) -> None:
    theirs = await answered(world, key="other")
    narrow = world.path.auth.create(
        tenant="acme",
        scopes=(Scope.FEEDBACK,),
        default_consent=ConsentLevel.TRAIN,
        aliases=("sales",),
        may_name_completions=True,
    )[1]
    mine = await answered(world)
    world.settle()
    said = {"metric_name": "resolved", "value": True}
    cases = [("by-id", theirs["id"]), ("by-id", "cmpl_unknown"), ("by-id", "nonsense"), (narrow, mine["id"])]
    answers = [await metric(world, key, inference_id=name, **said) for key, name in cases]
    assert {response.status_code for response in answers} == {404}
    assert len({response.text for response in answers}) == 1
    assert "only the newest are known" in answers[0].text
    assert words(world) == []


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"metric_name": "resolved", "value": True}, "inference_id"),
        ({"metric_name": "resolved", "value": True, "inference_id": "x", "episode_id": "y"}, "inference_id"),
        ({"metric_name": "resolved", "value": "yes", "inference_id": "cmpl_1"}, "value"),
        ({"metric_name": "resolved", "inference_id": "cmpl_1"}, "value"),
        ({"metric_name": "comment", "value": True, "inference_id": "cmpl_1"}, "value"),
        ({"metric_name": "comment", "value": "", "inference_id": "cmpl_1"}, "value"),
        ({"metric_name": "demonstration", "value": "x" * 20_001, "inference_id": "cmpl_1"}, "value"),
        ({"metric_name": "demonstration", "value": [{"type": "tool_call"}], "inference_id": "cmpl_1"}, "value"),
        ({"metric_name": "demonstration", "value": "x", "episode_id": "s"}, "inference_id"),
        ({"metric_name": "two words", "value": True, "inference_id": "cmpl_1"}, "metric_name"),
        ({"metric_name": "a", "value": 1, "inference_id": "cmpl_1", "variant": "b"}, "variant"),
        ({"metric_name": "a", "value": 1, "inference_id": "cmpl_1", "tags": {"k" * 129: "v"}}, None),
    ],
)
async def test_bodies_that_are_wrong_are_refused_by_name(world: World, body: dict[str, Any], field: str | None) -> None:
    response = await metric(world, **body)
    assert response.status_code == 400, response.text
    if field is not None:
        assert str(response.json()["error"]["param"]).startswith(field)
    assert words(world) == []
