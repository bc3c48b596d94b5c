"""The request path on real vLLM over real HTTP: all protocols, the openai SDK, and clients that leave."""

from __future__ import annotations

import json
import time
from typing import Any

import httpx
import pytest

from exchange.log.port import TopicPartition
from schemas.completion import Arm, CompletionRecorded
from schemas.feedback import AnswerTarget
from schemas.handles import verify_handle
from schemas.topics import COMPLETIONS
from schemas.wire import decode_event
from tests.engine.served import Served, served
from tests.engine_server import ENGINE_MARKS

__all__ = ["served"]
pytestmark = ENGINE_MARKS

MESSAGES: list[Any] = [{"role": "user", "content": "Where is my order?"}]


def test_the_sdk_gets_an_answer_whose_tokens_are_on_the_log(served: Served) -> None:
    answer = served.client().chat.completions.create(
        model="support",
        messages=MESSAGES,
        max_tokens=12,
        n=2,
        seed=1,
        logprobs=True,
        user="ann",
        extra_body={"top_p": 1.0, "top_k": -1, "return_token_ids": True},
    )
    attune = answer.attune  # type: ignore[attr-defined]
    assert answer.model == attune["version"] == "support@v0"
    assert answer.id == f"chatcmpl-{attune['completion_id'].removeprefix('cmpl_')}"
    event, content = served.event(attune["completion_id"])
    assert (event.version, event.arm, event.adapter_digest) == (0, Arm.STABLE, None)
    for choice, recorded, sealed in zip(answer.choices, event.choices, content.choices, strict=True):
        assert list(sealed.token_ids) == choice.token_ids  # type: ignore[attr-defined]
        assert sealed.text == choice.message.content
        assert choice.logprobs is not None
        shown = [entry.logprob for entry in choice.logprobs.content or ()]
        assert recorded.logprobs is not None
        assert shown == pytest.approx(recorded.logprobs, abs=1e-6)
    assert [verify_handle(handle, served.secrets.keyring, now=0).target for handle in attune["handles"]] == [
        AnswerTarget(completion_id=attune["completion_id"], choice=index, version=0) for index in range(2)
    ]


def test_streams_of_the_sdk_carry_attune_first_and_last(served: Served) -> None:
    stream = served.client().chat.completions.create(
        model="support",
        messages=MESSAGES,
        max_tokens=12,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    marked = [index for index, chunk in enumerate(chunks) if hasattr(chunk, "attune")]
    assert marked == [0, len(chunks) - 1]
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    _, content = served.event(chunks[0].attune["completion_id"])  # type: ignore[attr-defined]
    assert content.choices[0].text == text


def test_legacy_completions_record_each_prompt_under_its_handle(served: Served) -> None:
    body = {"model": "support", "prompt": ["one", "two"], "n": 2, "max_tokens": 4}
    answer = served.post("/v1/completions", body).json()
    handles = answer["attune"]["handles"]
    assert len(handles) == len(answer["choices"]) == 4
    for index, choice in enumerate(answer["choices"]):
        target = verify_handle(handles[index], served.secrets.keyring, now=0).target
        assert isinstance(target, AnswerTarget)
        event, content = served.event(target.completion_id)
        assert content.choices[target.choice].text == choice["text"]
        assert content.messages == ({"role": "user", "content": ["one", "two"][index // 2]},)
        assert event.protocol == "completions"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/responses", {"input": "hello", "max_output_tokens": 6, "instructions": "Be brief."}),
        ("/v1/messages", {"messages": MESSAGES, "max_tokens": 6, "system": "Be brief."}),
    ],
)
def test_the_other_protocols_say_who_spoke_and_are_recorded(
    served: Served, path: str, body: dict[str, Any], stream: bool
) -> None:
    response = served.post(path, {"model": "support", "stream": stream, **body})
    assert response.status_code == 200, response.text
    assert response.headers["attune-version"] == "support@v0"
    completion_id = response.headers["attune-completion-id"]
    event, content = served.event(completion_id)
    assert event.protocol == path.removeprefix("/v1/")
    assert content.messages[0] == {"role": "system", "content": "Be brief."}
    assert verify_handle(response.headers["attune-handle"], served.secrets.keyring, now=0).tenant == "acme"
    if not stream:
        assert response.json()["attune"]["completion_id"] == completion_id
        assert completion_id.removeprefix("cmpl_") in response.json()["id"]


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_is_recorded_as_gone(served: Served, stream: bool) -> None:
    body = {"model": "support", "messages": MESSAGES, "max_tokens": 400, "ignore_eos": True, "stream": stream}
    headers = {"authorization": f"Bearer {served.key}"}
    before = served.log.end_offset
    count = sum(before(TopicPartition(COMPLETIONS.name, n)) for n in served.log.partitions(COMPLETIONS.name))
    if stream:
        with httpx.stream("POST", f"{served.url}/v1/chat/completions", json=body, headers=headers) as response:
            completion_id = response.headers["attune-completion-id"]
            next(response.iter_lines())
    else:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{served.url}/v1/chat/completions", json=body, headers=headers, timeout=0.3)
        deadline = time.monotonic() + 20
        partitions = served.log.partitions(COMPLETIONS.name)
        while sum(before(TopicPartition(COMPLETIONS.name, n)) for n in partitions) == count:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        records = served.log.reader({TopicPartition(COMPLETIONS.name, n): 0 for n in partitions}).poll(
            max_records=10_000
        )
        newest = max((decode_event(record.value, record.headers) for record in records), key=lambda event: event.at)
        assert isinstance(newest, CompletionRecorded)
        completion_id = newest.completion_id
    event, _ = served.event(completion_id)
    assert (event.choices[0].finish_reason, event.choices[0].seen) == ("abort", False)
    assert event.choices[0].token_count < 400


def test_comparisons_tokenisation_and_refusals(served: Served) -> None:
    asked = {"model": "support", "messages": MESSAGES, "max_tokens": 6, "k": 3}
    compared = served.post("/v1/comparisons", asked)
    assert len(compared.json()["candidates"]) == 3
    assert "@v" not in compared.text + json.dumps(dict(compared.headers))
    assert served.post("/tokenize", {"model": "support", "prompt": "hello"}).json()["count"] > 0
    for path, body, field in (
        ("/v1/chat/completions", {"messages": MESSAGES, "use_beam_search": True}, "use_beam_search"),
        ("/v1/chat/completions", {"messages": [{"role": "nobody"}], "temperature": 99}, None),
        ("/v1/comparisons", {"messages": MESSAGES, "top_p": 7}, "top_p"),
        ("/v1/comparisons", {"messages": MESSAGES, "top_logprobs": -7}, None),
    ):
        refused = served.post(path, {"model": "support", **body})
        assert refused.status_code == 400, refused.text
        if field is not None:
            assert refused.json()["error"]["param"] == field
    for path in ("/v1/load_lora_adapter", "/inference/v1/generate", "/v1/responses/resp_1", "/scale_elastic_ep"):
        assert served.post(path, {"model": "support"}).status_code in (404, 405)
