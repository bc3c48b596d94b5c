"""Chats through the gateway: who may, what comes back, what is recorded."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from schemas.completion import Arm, ConsentLevel, Shown
from schemas.feedback import AnswerTarget
from schemas.handles import verify_handle
from server.request.routing import RoutingTable
from tests.unit.server.request.conftest import DIGEST, World, open_world


def chunks(text: str) -> list[dict[str, Any]]:
    lines = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


async def test_an_answer_says_which_version_spoke_and_carries_its_handle(world: World) -> None:
    response = await world.chat(
        user="ann", session_id="s1", metadata={"language": "en", "domain": "help", "ticket": "7"}
    )
    assert response.status_code == 200
    body = response.json()
    assert body["model"] == "support@v1"
    attune = body["attune"]
    completion_id = attune["completion_id"]
    assert attune == {
        "policy": "support",
        "version": "support@v1",
        "completion_id": completion_id,
        "handles": [response.headers["attune-handle"]],
    }
    assert body["id"] == f"chatcmpl-{completion_id.removeprefix('cmpl_')}"
    assert response.headers["attune-policy"] == "support"
    assert response.headers["attune-version"] == "support@v1"
    assert response.headers["attune-completion-id"] == completion_id

    claims = verify_handle(attune["handles"][0], world.secrets.keyring, now=0)
    (event,) = world.completions()
    assert claims.target == AnswerTarget(completion_id=completion_id, choice=0, version=1)
    assert (claims.tenant, claims.conversation, claims.end_user) == ("acme", event.conversation, event.end_user)
    assert event.completion_id == completion_id
    assert (event.policy, event.version, event.adapter_digest, event.arm) == ("support", 1, DIGEST, Arm.STABLE)
    assert (event.shown, event.protocol, event.tenant) == (Shown.DIRECT, "chat.completions", "acme")
    assert (event.language, event.domain, event.metadata) == ("en", "help", {"ticket": "7"})
    assert (event.consent.level, event.consent.source) == (ConsentLevel.TRAIN, "key")
    assert event.end_user is not None
    assert "ann" not in event.model_dump_json()
    content = world.content(event)
    assert content.messages == ({"role": "user", "content": "hello"},)
    assert content.choices[0].text == body["choices"][0]["message"]["content"]
    assert bytes(content.choices[0].token_ids[:-1]).decode() == content.choices[0].text
    assert event.choices[0].token_count == len(content.choices[0].token_ids)
    assert event.content.subject == event.end_user


async def test_a_stream_carries_attune_in_its_first_and_last_chunk_alone(world: World) -> None:
    every: tuple[dict[str, Any], ...] = ({}, {"stream_options": {"include_usage": True}})
    for options in every:
        response = await world.chat(stream=True, n=2, **options)
        assert response.headers["content-type"].startswith("text/event-stream")
        found = chunks(response.text)
        assert len(found) > 6
        marked = [index for index, chunk in enumerate(found) if "attune" in chunk]
        assert marked == [0, len(found) - 1]
        assert found[0]["attune"] == found[-1]["attune"]
        assert len(found[0]["attune"]["handles"]) == 2
        assert found[0]["attune"]["handles"][0] == response.headers["attune-handle"]
        assert {chunk["model"] for chunk in found} == {"support@v1"}
    assert [len(event.choices) for event in world.completions()] == [2, 2]


async def test_a_stream_says_the_same_as_a_whole_answer(world: World) -> None:
    whole = (await world.chat(seed=3)).json()["choices"][0]["message"]["content"]
    streamed = chunks((await world.chat(seed=3, stream=True)).text)
    assert "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in streamed) == whole


async def test_every_choice_has_a_handle_of_its_own(world: World) -> None:
    attune = (await world.chat(n=3)).json()["attune"]
    targets = [verify_handle(handle, world.secrets.keyring, now=0).target for handle in attune["handles"]]
    assert targets == [
        AnswerTarget(completion_id=attune["completion_id"], choice=index, version=1) for index in range(3)
    ]


async def test_chunks_are_passed_on_as_they_come_and_a_client_that_leaves_is_seen_by_the_engine(tmp_path: Path) -> None:
    async with open_world(tmp_path, seconds_per_step=0.05) as world:
        body = json.dumps(
            {"model": "support", "stream": True, "messages": [{"role": "user", "content": "hi"}]}
        ).encode()
        headers = [(b"authorization", f"Bearer {world.keys['acme']}".encode())]
        scope = {
            "type": "http",
            "method": "POST",
            "path": "/v1/chat/completions",
            "headers": headers,
            "query_string": b"",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
        }
        came: asyncio.Queue[bytes] = asyncio.Queue()
        left = asyncio.Event()
        inbox = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> dict[str, Any]:
            if inbox:
                return inbox.pop()
            await left.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            if message["type"] == "http.response.body":
                await came.put(message["body"])

        task = asyncio.create_task(world.app(scope, receive, send))
        first = await asyncio.wait_for(came.get(), 5)
        assert b'"attune"' in first
        await asyncio.wait_for(came.get(), 5)
        assert not task.done(), "the second chunk came before the answer was complete"
        assert world.engine.in_flight("support@v1") >= 1
        left.set()
        await asyncio.wait_for(task, 5)
        assert world.engine.in_flight("support@v1") == 0
        (event,) = world.completions()
        assert (event.choices[0].finish_reason, event.choices[0].seen) == ("abort", False)
        assert world.metric("attune_requests_total", policy="support", arm="stable", outcome="aborted") == 1


async def test_without_consent_nothing_is_recorded_and_there_is_no_handle(world: World) -> None:
    for response in (
        await world.chat(key="private"),
        await world.chat(headers={"attune-consent": "none"}),
        await world.chat(headers={"attune-consent": "none"}, stream=True),
    ):
        assert response.status_code == 200
        assert "attune-handle" not in response.headers
        assert response.headers["attune-version"] == "support@v1"
    assert (await world.chat(key="private")).json()["attune"]["handles"] == []
    assert world.completions() == []
    await world.chat(key="private", headers={"attune-consent": "train"})
    assert [(event.consent.level, event.consent.source) for event in world.completions()] == [
        (ConsentLevel.TRAIN, "request")
    ]


async def test_conversations_and_users_are_namespaced_by_tenant(world: World) -> None:
    await world.chat(key="acme", session_id="1", user="ann")
    await world.chat(key="other", session_id="1", safety_identifier="ann")
    await world.chat(key="acme", metadata={"session_id": "1"}, user="ann")
    await world.chat(key="acme", headers={"attune-session": "1"}, safety_identifier="ann")
    events = world.completions()
    ours = {(event.conversation, event.end_user) for event in events if event.tenant == "acme"}
    theirs = {(event.conversation, event.end_user) for event in events if event.tenant == "other"}
    assert len(ours) == len(theirs) == 1
    assert not {name for pair in ours for name in pair} & {name for pair in theirs for name in pair}


async def test_without_a_session_the_completion_is_the_conversation(world: World) -> None:
    await world.chat()
    (event,) = world.completions()
    assert event.conversation == event.completion_id == event.content.subject


async def test_the_canary_gets_its_share_by_user(world: World) -> None:
    world.routing["support"] = RoutingTable("support", 1, 2, 0.5, {0: None, 1: DIGEST, 2: "e" * 64})
    versions = {user: (await world.chat(user=user)).headers["attune-version"] for user in map(str, range(60))}
    assert 15 < list(versions.values()).count("support@v2") < 45
    for user in list(versions)[:10]:
        assert (await world.chat(user=user)).headers["attune-version"] == versions[user]
    body = (await world.chat(user="1")).text
    assert "arm" not in json.loads(body)["attune"]
    assert "canary" not in body


async def test_pins_and_who_may_use_which_model(world: World) -> None:
    assert (await world.chat(model="support@v2")).json()["model"] == "support@v2"
    assert world.completions()[0].arm is Arm.PINNED
    gone = await world.chat(model="support@v9")
    assert (gone.status_code, gone.json()["error"]["param"]) == (404, "model")
    assert "support@v0, support@v1, support@v2" in gone.json()["error"]["message"]
    for key, model in (("sales", "support"), ("sales", "support@v1"), ("acme", "unknown")):
        refused = await world.chat(key=key, model=model)
        assert (refused.status_code, refused.json()["error"]["code"]) == (404, "model_not_found")
    assert "support" not in (await world.chat(key="sales", model="support")).json()["error"]["message"]


async def test_the_base_answers_under_the_name_of_the_policy_that_was_asked(world: World) -> None:
    whole = await world.chat(key="sales", model="sales")
    assert (whole.status_code, whole.json()["model"]) == (200, "sales@v0")
    streamed = chunks((await world.chat(key="sales", model="sales", stream=True)).text)
    assert {chunk["model"] for chunk in streamed} == {"sales@v0"}
    assert {event.adapter_digest for event in world.completions()} == {None}


async def test_keys_without_the_right_are_refused(world: World) -> None:
    for key, status in ((None, 401), ("ak_1_2", 401), ("reader", 403)):
        response = await world.chat(key=key)
        assert response.status_code == status
        assert set(response.json()["error"]) == {"message", "type", "param", "code"}
    assert world.metric("attune_requests_total", policy="-", arm="-", outcome="refused") == 3


async def test_exploration_samples_from_the_full_distribution(tmp_path: Path) -> None:
    async with open_world(tmp_path, exploration_share=1.0) as world:
        narrow: dict[str, Any] = {
            "top_p": 0.5,
            "top_k": 3,
            "min_p": 0.1,
            "presence_penalty": 1.0,
            "repetition_penalty": 1.2,
        }
        await world.chat(temperature=0, **narrow)
        await world.chat(temperature=0.7, **narrow)
        explored = world.completions()
        assert {event.arm for event in explored} == {Arm.EXPLORATION}
        assert sorted(event.sampling.temperature for event in explored) == [0.7, 1.0]
        assert all(event.sampling.full_distribution for event in explored)
        await world.chat(model="support@v1", temperature=0)
        await world.chat(headers={"attune-consent": "store"}, temperature=0)
        await world.chat(response_format={"type": "json_object"}, temperature=0)
        await world.chat(seed=0, temperature=0)
        await world.chat(tools=[{"type": "function", "function": {"name": "look_up"}}], temperature=0)
        await world.chat(tool_choice="required", temperature=0)
        untouched = [event for event in world.completions() if event.arm is not Arm.EXPLORATION]
        assert [event.sampling.temperature for event in untouched] == [0] * 6
        assert [event.sampling.forced_tool for event in untouched] == [*([False] * 5), True]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"model": 7}, "model"),
        ({"model": None}, "model"),
        ({"model": "support@7"}, "model"),
        ({"messages": []}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"messages": [{"content": "x"}]}, "messages.0.role"),
        ({"n": 0}, "n"),
        ({"n": 10_000}, "n"),
        ({"n": "many"}, "n"),
        ({"user": ["ann"]}, "user"),
        ({"session_id": {}}, "session_id"),
        ({"metadata": "none"}, "metadata"),
        ({"metadata": {"language": "not a language"}}, "metadata.language"),
        ({"temperature": -1}, "temperature"),
        ({"use_beam_search": True}, "use_beam_search"),
        ({"priority": -5}, "priority"),
        ({"kv_transfer_params": {"a": 1}}, "kv_transfer_params"),
    ],
)
async def test_nonsense_is_refused_naming_the_field(world: World, body: dict[str, Any], field: str) -> None:
    response = await world.chat(**body)
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert error["param"] == field
    assert field in error["message"]


@pytest.mark.parametrize(
    "raw", [b"", b"{", b"[]", b"null", b'"x"', b'{"a": NaN}', b'{"a": "\\ud800"}', b"\xff", b"[" * 90_000]
)
async def test_what_is_no_json_object_is_refused(world: World, raw: bytes) -> None:
    response = await world.post("/v1/chat/completions", raw)
    assert (response.status_code, response.json()["error"]["param"]) == (400, "body")


async def test_large_bodies_and_wrong_consent_are_refused(world: World) -> None:
    assert (await world.post("/v1/chat/completions", b" " * 1_000_001)).status_code == 413
    refused = await world.chat(headers={"attune-consent": "maybe"})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "attune-consent")


async def test_the_engine_sees_no_person_and_a_salt_of_the_tenant(world: World) -> None:
    seen: list[dict[str, Any]] = []
    inner = world.engine.app

    async def spy(scope: Any, receive: Any, send: Any) -> None:
        message = await receive()
        seen.append({"headers": dict(scope["headers"]), **json.loads(message["body"])})

        async def again() -> Any:
            return message

        await inner(scope, again, send)

    world.engine._app = spy  # type: ignore[assignment]
    for key in ("acme", "other"):
        await world.chat(key=key, user="ann", session_id="s", request_id="mine", headers={"x-request-id": "mine"})
    assert all(not {"user", "session_id", "request_id"} & set(one) for one in seen)
    assert all(b"authorization" not in one["headers"] for one in seen)
    assert len({one["cache_salt"] for one in seen}) == 2
    assert len({one["headers"][b"x-request-id"] for one in seen} - {b"mine"}) == 2


async def test_nothing_personal_is_logged(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    world.store.close()
    await world.chat(user="ann-the-user", messages=[{"role": "user", "content": "my-secret"}])
    world.settle()
    assert "was not recorded" in caplog.text
    assert "ann-the-user" not in caplog.text
    assert "my-secret" not in caplog.text
    assert world.metric("attune_completions_recorded_total", policy="support", outcome="dropped") == 1


async def test_errors_of_the_messages_api_have_its_shape(world: World) -> None:
    response = await world.chat(path="/v1/messages", key=None)
    assert response.status_code == 401
    assert response.json()["type"] == "error"
    assert "type" not in (await world.chat(key=None)).json()
