"""The openai SDK and plain curl, unchanged, against a real server on real vLLM."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import httpx
import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from tests.e2e.running import RunningServer, attune

pytestmark = [pytest.mark.engine, pytest.mark.e2e]
QUESTION = [{"role": "user", "content": "Where is my order?"}]


@pytest.fixture(scope="module")
def client(attune_server: RunningServer) -> OpenAI:
    return OpenAI(base_url=f"{attune_server.url}/v1", api_key=attune_server.home.app_key, max_retries=0)


def test_sync(client: OpenAI) -> None:
    answer = client.chat.completions.create(model="support", messages=QUESTION, max_tokens=8, user="u1")
    assert answer.model == "support@v0"
    assert answer.usage is not None
    assert answer.usage.completion_tokens <= 8
    attune_part = answer.model_extra["attune"]
    assert attune_part["version"] == "support@v0"
    assert len(attune_part["handles"]) == 1
    assert answer.id.removeprefix("chatcmpl-") == attune_part["completion_id"].removeprefix("cmpl_")
    assert answer.choices[0].logprobs is None


def test_stored_completions_are_listed_page_by_page(attune_server: RunningServer) -> None:
    client = OpenAI(
        base_url=f"{attune_server.url}/v1",
        api_key=attune_server.home.admin_key,
        default_headers={"attune-consent": "store"},  # an operator's key lets nothing be kept unless asked to
    )
    with client:
        asked = [
            client.chat.completions.create(
                model="support", messages=QUESTION, max_tokens=4, store=True, metadata={"channel": f"sdk{number}"}
            )
            for number in range(3)
        ]
        deadline = time.monotonic() + 30
        while len(found := list(client.chat.completions.list(limit=1))) < 3 and time.monotonic() < deadline:
            time.sleep(0.05)  # what was answered is recorded beside the answer
        assert [one.id for one in found] == [one.id for one in asked]
        assert [one.choices[0].message.content for one in found] == [one.choices[0].message.content for one in asked]
        (second,) = client.chat.completions.list(metadata={"channel": "sdk1"})
        assert client.chat.completions.retrieve(asked[1].id) == second


async def test_async(attune_server: RunningServer) -> None:
    async with AsyncOpenAI(base_url=f"{attune_server.url}/v1", api_key=attune_server.home.app_key) as client:
        answer = await client.chat.completions.create(model="support@v0", messages=QUESTION, max_tokens=4)
    assert answer.model == "support@v0"


def test_streaming(client: OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(
            model="support", messages=QUESTION, max_tokens=8, stream=True, stream_options={"include_usage": True}
        )
    )
    assert chunks[0].model_extra["attune"]["handles"] == chunks[-1].model_extra["attune"]["handles"]
    assert sum("attune" in (chunk.model_extra or {}) for chunk in chunks) == 2
    assert chunks[-1].usage is not None
    assert any(choice.finish_reason for chunk in chunks for choice in chunk.choices)


def test_several_choices_with_logprobs_and_a_seed(client: OpenAI) -> None:
    def ask() -> list[list[float]]:
        answer = client.chat.completions.create(
            model="support", messages=QUESTION, max_tokens=6, n=3, seed=11, logprobs=True, top_logprobs=2
        )
        assert len(answer.model_extra["attune"]["handles"]) == 3
        return [[token.logprob for token in choice.logprobs.content] for choice in answer.choices]

    first, second = ask(), ask()
    assert [len(choice) for choice in first] == [len(choice) for choice in second]
    for one, two in zip(first, second, strict=True):
        assert one == pytest.approx(two, abs=1e-4)


def test_stop_strings(client: OpenAI) -> None:
    whole = client.chat.completions.create(model="support", messages=QUESTION, max_tokens=12, temperature=0)
    text = whole.choices[0].message.content or ""
    stop = text[len(text) // 2]
    cut = client.chat.completions.create(model="support", messages=QUESTION, max_tokens=12, temperature=0, stop=[stop])
    assert cut.choices[0].finish_reason == "stop"
    assert cut.choices[0].message.content == text[: text.index(stop)]


def test_response_format(client: OpenAI) -> None:
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
    answer = client.chat.completions.create(
        model="support",
        messages=QUESTION,
        max_tokens=200,
        n=8,
        response_format={
            "type": "json_schema",
            "json_schema": {"name": "verdict", "schema": schema | {"additionalProperties": False}},
        },
    )
    # JSON may have any number of blanks, and a model of random weights may go on with them until it is cut off.
    whole = [choice.message.content or "" for choice in answer.choices if choice.finish_reason == "stop"]
    assert whole
    assert all(isinstance(json.loads(text)["ok"], bool) for text in whole)


def test_models_lists_aliases_and_no_paths(client: OpenAI) -> None:
    models = client.models.list().data
    assert "support" in {model.id for model in models}
    assert "/" not in json.dumps([model.model_dump() for model in models])


def test_errors_are_the_sdks_own(attune_server: RunningServer, client: OpenAI) -> None:
    with pytest.raises(openai.AuthenticationError):
        OpenAI(base_url=f"{attune_server.url}/v1", api_key="ak_no_no").models.list()
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="sales", messages=QUESTION)
    with pytest.raises(openai.BadRequestError, match="beam"):
        client.chat.completions.create(model="support", messages=QUESTION, extra_body={"use_beam_search": True})


def test_curl_and_a_thumb_from_a_browser(attune_server: RunningServer) -> None:
    body = json.dumps({"model": "support", "messages": QUESTION, "max_tokens": 4})
    shown = subprocess.run(
        [
            *("curl", "-sS", "-i", f"{attune_server.url}/v1/chat/completions", "-d", body),
            *("-H", "Content-Type: application/json"),
            *("-H", f"Authorization: Bearer {attune_server.home.app_key}"),
        ],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    head, _, answer = shown.replace("\r", "").partition("\n\n")
    assert "attune-version: support@v0" in head
    handle = json.loads(answer)["attune"]["handles"][0]
    thumb = {"handle": handle, "kind": "thumbs", "value": "up", "idempotency_key": "k"}
    first = httpx.post(f"{attune_server.url}/v1/feedback", json=thumb)
    assert (first.status_code, first.json()["status"]) == (200, "stored")
    assert httpx.post(f"{attune_server.url}/v1/feedback", json=thumb).json()["id"] == first.json()["id"]
    bad = httpx.post(f"{attune_server.url}/v1/feedback", json=thumb | {"stars": 5})
    assert bad.status_code in (400, 422)
    assert "stars" in bad.json()["error"]["message"]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"x"', b"\xff", b'{"model": 3}', b'{"model": "support"}'])
def test_nonsense_is_a_400_that_names_the_field(attune_server: RunningServer, body: bytes) -> None:
    answer = httpx.post(f"{attune_server.url}/v1/chat/completions", content=body, headers=attune_server.app())
    assert answer.status_code in (400, 422)
    assert answer.json()["error"]["message"]


def test_what_outsiders_must_not_reach(attune_server: RunningServer) -> None:
    for path in ("/v1/load_lora_adapter", "/scale_elastic_ep", "/invocations", "/inference/v1/generate", "/pause"):
        assert httpx.post(attune_server.url + path, json={}, headers=attune_server.admin()).status_code in (404, 405)
    for path in ("promote", "rollback"):
        answer = httpx.post(
            f"{attune_server.url}/v1/admin/policies/support/{path}", json={}, headers=attune_server.app()
        )
        assert answer.status_code == 403


def test_the_command_line_shows_the_policy(attune_server: RunningServer) -> None:
    environment = {"ATTUNE_URL": attune_server.url, "ATTUNE_API_KEY": attune_server.home.admin_key}
    shown = attune("policy", "show", "support", "--history", **environment)
    assert shown.returncode == 0, shown.stderr
    assert "support@v0" in shown.stdout
    refused = attune("policy", "rollback", "support", **environment)
    assert refused.returncode == 1
    assert "no version before support@v0" in " ".join(refused.stderr.split())


def test_a_person_at_the_terminal(attune_server: RunningServer) -> None:
    typed = "hello\n/up\n/rate 4\n/undo\n/compare which is better\n1\n/quit\n"
    shown = subprocess.run(
        [sys.executable, "-m", "deploy.cli", "chat", "--url", attune_server.url, "--max-tokens", "8"],
        env=os.environ | {"ATTUNE_API_KEY": attune_server.home.app_key},
        input=typed,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.count("stored") == 4
    assert "support@v0" in shown.stdout
