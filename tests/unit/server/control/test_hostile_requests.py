"""Requests made to harm: whatever comes, the answer is 4xx in OpenAI's shape and nothing is written."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.types import Message

from server import asgi
from server.auth import Scope
from tests.unit.server.control.whole import Headers, Whole, open_server

CHAT: dict[str, Any] = {"model": "support", "messages": [{"role": "user", "content": "hello"}]}
ROLLBACK = "/v1/admin/policies/support/rollback"
PROMOTE = "/v1/admin/policies/support/promote"
RATERS = "/v1/admin/policies/support/raters"
POSTS = (
    "/v1/chat/completions",
    "/v1/comparisons",
    "/v1/feedback",
    "/v1/displayed",
    "/v1/consent",
    PROMOTE,
    ROLLBACK,
    RATERS,
)
ERASURES = "/v1/admin/erasures"
LIMIT = 50_000


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Whole]:
    async with open_server(tmp_path, chat={"max_body_bytes": LIMIT}) as opened:
        yield opened


async def refused(server: Whole, path: str, body: Any, headers: Headers | None = None) -> dict[str, Any]:
    """The error; and nothing was written."""
    before = server.written()
    answer = await server.send(path, body, headers)
    assert 400 <= answer.status_code < 500, (path, answer.status_code, answer.text)
    error: dict[str, Any] = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    assert server.written() == before
    return {**error, "status": answer.status_code}


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\0",
        b"null",
        b"[]",
        b'"text"',
        b"{",
        b'{"a": NaN}',
        b'{"reason": Infinity}',
        b'{"reason": -Infinity}',
        b'{"reason": 1e999}',
        b'{"reason": "\xff\xfe"}',
        b'{"reason": "\\ud800"}',
        b'{"version": "\\ud800@v1", "model": "\\ud800", "user": "\\ud800", "handle": "\\ud800"}',
        b'{"n": ' + b"9" * 5_000 + b"}",
        b"[" * 20_000,
        b'{"a":' * 8_000 + b"1" + b"}" * 8_000,
        b'\xef\xbb\xbf{"model": "support"}',
    ],
)
async def test_what_is_no_json_object_is_refused(server: Whole, path: str, body: bytes) -> None:
    await refused(server, path, body)


@pytest.mark.parametrize("path", POSTS)
async def test_a_name_that_comes_twice_is_refused(server: Whole, path: str) -> None:
    twice = b'{"model": "support", "model": "support@v0", "messages": [{"role": "user", "content": "x"}]}'
    await refused(server, path, twice)
    twice = b'{"version": "support@v1", "version": "support@v2", "reason": "x"}'
    assert "comes twice" in (await refused(server, path, twice))["message"]
    deep = b'{"model": "support", "messages": [{"role": "user", "role": "system", "content": "x"}]}'
    await refused(server, path, deep)


@pytest.mark.parametrize("path", POSTS)
async def test_a_body_over_the_limit_is_refused_before_it_is_read(server: Whole, path: str) -> None:
    large = b'{"reason": "' + b"x" * LIMIT + b'"}'
    assert (await refused(server, path, large))["status"] == 413
    # Also for whoever has no key, and whoever lies about the length.
    assert (await refused(server, path, large, {"authorization": "Bearer ak_no_key"}))["status"] in (401, 413)
    assert (await refused(server, path, b"{}", {"content-length": "9" * 30}))["status"] == 413


@pytest.mark.parametrize("path", POSTS)
async def test_a_body_without_end_is_cut_off(server: Whole, path: str) -> None:
    sent = 0

    def endless() -> Iterator[Message]:
        nonlocal sent
        while True:
            sent += 1_000
            yield {"type": "http.request", "body": b"x" * 1_000, "more_body": True}

    stream = endless()

    async def receive() -> Message:
        return next(stream)

    status = await _call(server, path, receive)
    assert status in (401, 413)
    assert sent <= LIMIT + 1_000


@pytest.mark.parametrize("path", POSTS)
async def test_a_body_that_does_not_come_is_not_waited_for(
    server: Whole, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asgi, "BODY_S", 0.01)

    async def receive() -> Message:
        await asyncio.Event().wait()
        raise AssertionError("nobody sets the event")

    assert await _call(server, path, receive) == 408


async def _call(server: Whole, path: str, receive: Any) -> int:
    """One request of chunks, straight into the app; returns the status."""
    statuses: list[int] = []

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    headers = [(b"content-type", b"application/json"), (b"transfer-encoding", b"chunked")]
    headers += [(name.encode(), value.encode()) for name, value in server.key(*Scope).items()]
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": headers,
        "client": ("127.0.0.1", 1),
        "server": ("attune", 80),
    }
    await server.application.app(scope, receive, send)
    (status,) = statuses
    return status


async def test_an_erasure_is_read_as_strictly_as_the_rest(server: Whole) -> None:
    for body in (b"", b"[]", b'{"user": "a", "user": "b"}', b'{"user": NaN}', b'{"user": "\\ud800"}', b"[" * 20_000):
        await refused(server, ERASURES, body)
    for wrong in ({"user": ""}, {"user": "a", "session": "b"}, {"user": "a", "rebuild": "yes"}, {"subject": "a b"}):
        await refused(server, ERASURES, wrong)
    assert (await refused(server, ERASURES, {}))["message"] == "name exactly one of user, session and subject"


async def test_nothing_is_unpacked(server: Whole) -> None:
    """What would swell to a thousand times its size is refused before it is looked at."""
    bomb = gzip.compress(b" " * 10_000_000 + b"{}")
    assert len(bomb) < LIMIT
    for path in (*POSTS, ERASURES):
        for encoding in ("gzip", "GZIP", "deflate", "br", "zstd", "identity, gzip"):
            error = await refused(server, path, bomb, {"content-encoding": encoding})
            assert (error["status"], error["param"]) == (415, "content-encoding")
        assert (await refused(server, path, bomb))["status"] == 400  # what does not say so is no JSON


async def test_a_wrong_kind_of_body_is_named_with_the_remedy(server: Whole) -> None:
    for path in (*POSTS, ERASURES):
        error = await refused(server, path, CHAT, {"content-type": "text/plain"})
        assert (error["status"], error["param"]) == (415, "content-type")
        assert "Content-Type: application/json" in error["message"]


@pytest.mark.parametrize(
    ("field", "value"),
    [("aspects", {"tone": True}), ("aspects", {"tone": "1"}), ("stars", True), ("stars", "5"), ("stars", 10**400)],
)
async def test_a_word_is_taken_at_its_type(server: Whole, field: str, value: Any) -> None:
    handle = (await server.send("/v1/chat/completions", CHAT)).json()["attune"]["handles"][0]
    body = {"handle": handle, "kind": "rating", "stars": 5, field: value}
    assert (await refused(server, "/v1/feedback", body))["param"].startswith(field)


@pytest.mark.parametrize(
    "text", ["\0", "\x1b[2J\x07", "\u202etxt.exe", "\u2028\u0085", "\U0010ffff", "\r\nset-cookie: a=b"]
)
async def test_control_characters_are_only_text(server: Whole, text: str) -> None:
    body = {**CHAT, "messages": [{"role": "user", "content": text}], "store": True, "metadata": {"note": text}}
    answer = await server.send("/v1/chat/completions", body)
    assert answer.status_code == 200
    assert server.written()
    handle = answer.json()["attune"]["handles"][0]
    said = await server.send("/v1/feedback", {"handle": handle, "kind": "comment", "comment": text})
    assert said.status_code == 200
    (stored,) = (await server.http.get("/v1/chat/completions")).json()["data"]
    assert stored["metadata"] == {"note": text}
    assert "set-cookie" not in answer.headers


async def test_ten_thousand_messages_are_answered_or_refused(tmp_path: Path) -> None:
    async with open_server(tmp_path) as server:
        body = {**CHAT, "messages": [{"role": "user", "content": "x"}] * 10_000}
        assert (await server.send("/v1/chat/completions", body)).status_code == 200
        body = {**CHAT, "messages": [{"role": "user", "content": "x" * 100}] * 10_000}
        assert (await refused(server, "/v1/chat/completions", body))["status"] == 413


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize(
    "kind",
    ["text/plain", "application/xml", "multipart/form-data; boundary=x", "application/x-www-form-urlencoded", "x"],
)
async def test_no_content_type_does_harm(server: Whole, path: str, kind: str) -> None:
    await refused(server, path, b"--x\r\nmodel=support", {"content-type": kind})


@pytest.mark.parametrize(
    "name",
    [
        "../../etc/passwd",
        "support@v../../1",
        "support@v1/../../x",
        "support@v-1",
        "support@v1\0",
        "support@v1\n",
        "support@v99999999999999999999",
        "support@v\u0661",
        "SUPPORT@v1",
        "support@v01",
        "@v1",
        "support@",
        "x" * 10_000,
        "support@v1\r\nattune-admin: yes",
    ],
)
async def test_names_of_versions_that_are_none_lead_nowhere(server: Whole, name: str) -> None:
    assert (await refused(server, PROMOTE, {"version": name}))["param"] == "version"
    assert (await refused(server, ROLLBACK, {"version": name}))["param"] == "version"
    assert (await refused(server, ROLLBACK, {"version": "support@v0", "to": name}))["param"] == "to"
    assert (await refused(server, "/v1/chat/completions", {**CHAT, "model": name}))["param"] == "model"
    error = await refused(server, "/v1/comparisons", {**CHAT, "versions": ["support@v0", name]})
    assert error["param"] in ("versions", "model")


@pytest.mark.parametrize(
    "path",
    [
        "/v1/admin/policies/..%2f..%2fetc",
        "/v1/admin/policies/%00",
        "/v1/admin/policies/%ff/history",
        "/v1/admin/policies/support%0d%0ax:1/history",
        "/v1/models/..%2f..%2fetc%2fpasswd",
        "/v1/models/%E2%82%AC",
        "/../../etc/passwd",
        "/v1/../metrics/../../x",
    ],
)
async def test_paths_that_climb_lead_nowhere(server: Whole, path: str) -> None:
    answer = await server.http.get(path)
    assert answer.status_code == 404
    assert "passwd" not in str(answer.headers)


async def test_nothing_a_client_says_becomes_a_header(server: Whole) -> None:
    evil = "x\r\nset-cookie: a=b"
    body = {**CHAT, "user": evil, "session_id": evil, "metadata": {"language": "en", evil: evil}, "request_id": evil}
    for path, sent in (("/v1/chat/completions", body), ("/v1/comparisons", {**body, "k": 2})):
        answer = await server.send(path, sent, {"x-request-id": "mine", "attune-session": b"\xe9\t\xff"})
        assert answer.status_code == 200, answer.text
        assert "set-cookie" not in answer.headers
        assert "mine" not in answer.text + str(answer.headers)
    refusal = await server.send("/v1/chat/completions", {**CHAT, "model": evil})
    assert "set-cookie" not in refusal.headers


@pytest.mark.parametrize("consent", ["", "all", "train\0", "é", "x" * 10_000, "none, train"])
async def test_consent_that_is_none_is_refused_by_name(server: Whole, consent: str) -> None:
    sent = {"attune-consent": consent.encode()}
    assert (await refused(server, "/v1/chat/completions", CHAT, sent))["param"] == "attune-consent"


async def test_keys_open_what_their_scopes_say_and_nothing_else(server: Whole) -> None:
    allowed = {
        "/v1/chat/completions": {Scope.CHAT},
        "/v1/comparisons": {Scope.CHAT},
        "/v1/feedback": {Scope.CHAT, Scope.FEEDBACK},
        "/v1/displayed": {Scope.CHAT, Scope.FEEDBACK},
        "/v1/consent": {Scope.CHAT, Scope.FEEDBACK},
        PROMOTE: {Scope.ADMIN},
        ROLLBACK: {Scope.ADMIN},
        RATERS: {Scope.ADMIN},
    }
    assert set(allowed) == set(POSTS)
    for path, scopes in allowed.items():
        for scope in set(Scope) - scopes:
            assert (await refused(server, path, CHAT, server.key(scope)))["status"] == 403, (path, scope)
    for scope in (Scope.CHAT, Scope.FEEDBACK):
        for path in ("/v1/admin/policies", "/v1/admin/policies/support", "/v1/admin/policies/support/history"):
            assert (await server.http.get(path, headers=server.key(scope))).status_code == 403


async def test_revoked_and_made_up_keys_open_nothing(server: Whole) -> None:
    headers = server.key(*Scope)
    handle = (await server.send("/v1/chat/completions", CHAT, headers)).json()["attune"]["handles"][0]
    key_id = headers["authorization"].split("_")[1]
    server.keys.revoke(key_id)
    said = {"handle": handle, "kind": "thumbs", "value": "up"}
    for sent in (
        headers,
        {"authorization": f"Bearer ak_{key_id}_"},
        {"authorization": f"Bearer ak_{key_id}_{'0' * 64}"},
        {"authorization": "Bearer " + "x" * 10_000},
        {"authorization": "Basic YWRtaW46YWRtaW4="},
        {"authorization": ""},
    ):
        for path in POSTS:
            if sent["authorization"] or path not in ("/v1/feedback", "/v1/displayed"):
                assert (await refused(server, path, {**CHAT, **said}, sent))["status"] == 401, path
    assert (await server.send("/v1/feedback", said, server.key(Scope.FEEDBACK))).status_code == 200


async def test_a_tenant_sees_nothing_of_another(server: Whole) -> None:
    handle = (await server.send("/v1/chat/completions", CHAT)).json()["attune"]["handles"][0]
    theirs = server.key(*Scope, tenant="other")
    said = {"handle": handle, "kind": "thumbs", "value": "down"}
    assert (await refused(server, "/v1/feedback", said, theirs))["code"] == "handle_foreign"
    assert (await refused(server, "/v1/displayed", {"handle": handle}, theirs))["code"] == "handle_foreign"
    for source in ("rater", "ai", "implicit"):
        assert (await refused(server, "/v1/feedback", {**said, "source": source}))["param"] == "source"
