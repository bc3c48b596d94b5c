"""What the seam records equals what the engine sampled, whatever the request looked like and however it ended."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from server.engine.record import EngineChoice, EngineRecord
from tests.conftest import GENERATION_DEFAULTS
from tests.engine.client import body, chat, stream, streamed
from tests.engine_server import ENGINE_MARKS, EngineServer

pytestmark = ENGINE_MARKS


@pytest.fixture(scope="module")
def adapter(engine_server: EngineServer, tiny_adapters: list[Path]) -> tuple[str, Path]:
    name = f"support@recording-{uuid.uuid4().hex[:6]}"
    engine_server.call(engine_server.engine.load_adapter(name, tiny_adapters[0]))
    return name, tiny_adapters[0]


def recomputed(model: Path, record: EngineRecord, choice: EngineChoice, adapter: Path | None = None) -> torch.Tensor:
    """The sampled tokens' logprobs by transformers in float32, at the record's temperature."""
    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    if adapter is not None:
        network = PeftModel.from_pretrained(network, adapter)
    ids = torch.tensor([[*record.prompt_token_ids, *choice.token_ids]])
    with torch.no_grad():
        logits = network(ids).logits[0, len(record.prompt_token_ids) - 1 : -1] / record.sampling.temperature
    return logits.log_softmax(-1).gather(-1, torch.tensor(choice.token_ids)[:, None])[:, 0]


def shown_logprobs(value: Any) -> Iterator[Any]:
    """Whatever a body holds under a key that speaks of logprobs, at any depth."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if "logprob" in key:
                yield inner
            yield from shown_logprobs(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from shown_logprobs(inner)


def test_plain_answer_is_recorded_without_showing_logprobs(engine_server: EngineServer, tiny_model: Path) -> None:
    plain, record = chat(engine_server, seed=7)
    asked, _ = chat(engine_server, seed=7, logprobs=True, return_token_ids=True)
    choice = record.choices[0]

    assert not any(shown_logprobs(plain))
    assert choice.token_ids == tuple(asked["choices"][0]["token_ids"])
    assert record.prompt_token_ids == tuple(asked["prompt_token_ids"])
    shown = [entry["logprob"] for entry in asked["choices"][0]["logprobs"]["content"]]
    assert choice.logprobs == pytest.approx(shown, abs=1e-5)
    assert choice.text == plain["choices"][0]["message"]["content"]
    assert (choice.finish_reason, choice.seen) == (plain["choices"][0]["finish_reason"], True)
    assert plain["usage"]["completion_tokens"] == len(choice.token_ids)

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    expected = tokenizer.apply_chat_template(body()["messages"], add_generation_prompt=True)["input_ids"]
    assert record.prompt_token_ids == tuple(expected)


def test_logged_logprobs_are_those_of_an_independent_computation(
    engine_server: EngineServer, tiny_model: Path, adapter: tuple[str, Path]
) -> None:
    for model, files in (("support@v0", None), adapter):
        for temperature in (1.0, 0.7):
            _, record = chat(engine_server, model=model, temperature=temperature, seed=3, n=2)
            assert record.logprobs_mode == "processed_logprobs"
            assert record.adapter == (None if files is None else model)
            for choice in record.choices:
                torch.testing.assert_close(
                    torch.tensor(choice.logprobs), recomputed(tiny_model, record, choice, files), atol=1e-3, rtol=0
                )


def test_streams_of_several_choices_are_one_record(engine_server: EngineServer, adapter: tuple[str, Path]) -> None:
    chunks, completion_id = stream(engine_server, model=adapter[0], n=3, seed=11, logprobs=True, return_token_ids=True)
    record = engine_server.record(completion_id)
    assert [choice.index for choice in record.choices] == [0, 1, 2]
    for choice in record.choices:
        text, token_ids, logprobs = streamed(chunks, choice.index)
        assert choice.token_ids == tuple(token_ids)
        assert choice.logprobs == pytest.approx(logprobs, abs=1e-5)
        assert choice.text == text
        assert choice.seen
    whole, same = chat(engine_server, model=adapter[0], n=3, seed=11)
    assert [choice.token_ids for choice in same.choices] == [choice.token_ids for choice in record.choices]
    assert [choice["message"]["content"] for choice in whole["choices"]] == [choice.text for choice in same.choices]
    assert 0 < record.first_token_s < record.duration_s
    assert 0 < same.first_token_s < same.duration_s


def test_plain_stream_does_not_show_logprobs(engine_server: EngineServer) -> None:
    chunks, completion_id = stream(engine_server, seed=5)
    assert all(choice.get("logprobs") is None for chunk in chunks for choice in chunk["choices"])
    choice = engine_server.record(completion_id).choices[0]
    assert len(choice.logprobs or ()) == len(choice.token_ids) > 0


def test_logprobs_are_taken_off_the_engine_core_and_equal_vllms_own(
    engine_server: EngineServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails where a new vLLM has other internals than `server.engine.outputs` knows: recording still works then, but
    at the price of vLLM's dictionaries.
    """
    from server.engine.build import VllmEngine  # loads vLLM, which warns

    engine = engine_server.engine
    assert isinstance(engine, VllmEngine)
    assert engine.takes_sampled
    _, taken = chat(engine_server, seed=13, n=2)
    monkeypatch.delattr(engine.client.output_processor, "add_request")
    _, plain = chat(engine_server, seed=13, n=2)
    for ours, vllms in zip(taken.choices, plain.choices, strict=True):
        assert ours.token_ids == vllms.token_ids
        assert ours.logprobs == pytest.approx(vllms.logprobs, abs=1e-5)
        assert ours.text == vllms.text


def test_requests_beside_one_that_asks_for_more_logprobs_keep_their_own(
    engine_server: EngineServer, tiny_model: Path
) -> None:
    with ThreadPoolExecutor(3) as pool:
        plain = [pool.submit(chat, engine_server, seed=seed, max_tokens=100, ignore_eos=True) for seed in (1, 2)]
        asked = pool.submit(chat, engine_server, seed=3, max_tokens=100, logprobs=True, top_logprobs=4)
        records = [future.result()[1] for future in (*plain, asked)]
    for record in records:
        torch.testing.assert_close(
            torch.tensor(record.choices[0].logprobs),
            recomputed(tiny_model, record, record.choices[0]),
            atol=1e-3,
            rtol=0,
        )


async def test_unknown_internals_leave_vllm_as_it_was(caplog: pytest.LogCaptureFixture) -> None:
    from server.engine.outputs import take_sampled  # loads vLLM, which warns

    class OtherProcessor:
        def add_request(self) -> None: ...

    client = SimpleNamespace(output_processor=OtherProcessor())
    assert not await take_sampled(client)
    assert "the slow way" in caplog.text
    assert vars(client.output_processor) == {}


@pytest.mark.parametrize("streaming", [False, True])
def test_stop_string_cuts_the_text_but_not_the_tokens(
    engine_server: EngineServer, tiny_model: Path, streaming: bool
) -> None:
    _, whole = chat(engine_server, seed=21)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    text, tokens = whole.choices[0].text, whole.choices[0].token_ids
    stop = next(
        word
        for start in range(4, len(text))
        if (word := text[start : start + 2]).isascii() and text.find(word) == start
    )
    if streaming:
        _, completion_id = stream(engine_server, seed=21, stop=[stop])
        record = engine_server.record(completion_id)
    else:
        _, record = chat(engine_server, seed=21, stop=[stop])
    choice = record.choices[0]
    assert choice.text == text[: text.index(stop)]
    assert (choice.finish_reason, choice.stop_reason) == ("stop", stop)
    assert choice.token_ids == tokens[: len(choice.token_ids)]
    assert stop in tokenizer.decode(choice.token_ids)
    assert len(choice.logprobs or ()) == len(choice.token_ids)
    assert record.sampling.stop == (stop,)


def test_client_that_leaves_a_stream_is_recorded_as_unseen(engine_server: EngineServer, tiny_model: Path) -> None:
    request = {"seed": 31, "max_tokens": 400, "ignore_eos": True}
    _, completion_id = stream(engine_server, leave_after=6, **request)
    record = engine_server.record(completion_id)
    choice = record.choices[0]
    assert (choice.finish_reason, choice.seen) == ("abort", False)
    assert 4 <= len(choice.token_ids) < 400
    _, whole = chat(engine_server, **request)
    assert choice.token_ids == whole.choices[0].token_ids[: len(choice.token_ids)]
    assert record.prompt_token_ids == whole.prompt_token_ids
    torch.testing.assert_close(torch.tensor(choice.logprobs), recomputed(tiny_model, record, choice), atol=1e-3, rtol=0)


def test_client_that_leaves_before_a_whole_answer_is_recorded(engine_server: EngineServer) -> None:
    completion_id = uuid.uuid4().hex
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(
            f"{engine_server.url}/v1/chat/completions",
            json=body(max_tokens=450, ignore_eos=True, n=2),
            headers={"X-Test-Completion": completion_id},
            timeout=0.3,
        )
    record = engine_server.record(completion_id)
    assert [(choice.finish_reason, choice.seen) for choice in record.choices] == [("abort", False)] * 2
    assert len(record.prompt_token_ids) > 3
    assert engine_server.engine.in_flight("support@v0") == 0


def test_generation_config_defaults_show_in_effective_sampling(engine_server: EngineServer) -> None:
    _, record = chat(engine_server, temperature=None, top_p=None, top_k=None)
    assert (record.sampling.top_p, record.sampling.top_k) == (
        GENERATION_DEFAULTS["top_p"],
        GENERATION_DEFAULTS["top_k"],
    )
    assert record.sampling.temperature == 1.0
    _, record = chat(engine_server)
    assert (record.sampling.top_p, record.sampling.top_k) == (1.0, 0)


def test_everything_that_bends_the_distribution_is_flagged(engine_server: EngineServer) -> None:
    _, plain = chat(engine_server)
    sampling = plain.sampling
    flags = (sampling.logit_bias, sampling.bad_words, sampling.allowed_token_ids, sampling.custom_arguments)
    assert not any(flags)
    assert sampling.structured_output is None
    _, record = chat(
        engine_server,
        min_p=0.01,
        presence_penalty=0.5,
        frequency_penalty=0.25,
        repetition_penalty=1.1,
        logit_bias={"20": 1.0},
        bad_words=["order"],
        allowed_token_ids=list(range(5, 200)),
        min_tokens=2,
        seed=9,
        vllm_xargs={"flavour": "x"},
    )
    sampling = record.sampling
    assert (sampling.min_p, sampling.presence_penalty, sampling.frequency_penalty) == (0.01, 0.5, 0.25)
    assert (sampling.repetition_penalty, sampling.min_tokens, sampling.seed) == (1.1, 2, 9)
    assert sampling.logit_bias
    assert sampling.bad_words
    assert sampling.allowed_token_ids
    assert sampling.custom_arguments
    assert (plain.sampling.opaque, sampling.opaque) == (False, True)


def test_structured_output_works_and_is_flagged(engine_server: EngineServer) -> None:
    schema = {
        "type": "object",
        "properties": {"refund": {"type": "boolean"}},
        "required": ["refund"],
        "additionalProperties": False,
    }
    answer, record = chat(
        engine_server,
        max_tokens=200,
        seed=1,
        response_format={"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}},
    )
    if record.choices[0].finish_reason == "stop":
        assert set(json.loads(answer["choices"][0]["message"]["content"])) == {"refund"}
    assert record.choices[0].text.lstrip().startswith("{")
    assert record.sampling.structured_output == "json"
    _, record = chat(engine_server, structured_outputs={"choice": ["refund", "parcel"]})
    assert record.choices[0].text in ("refund", "parcel")
    assert record.sampling.structured_output == "choice"


def test_calls_without_context_are_not_recorded(engine_server: EngineServer) -> None:
    before = len(engine_server.records)
    response = httpx.post(f"{engine_server.url}/v1/chat/completions", json=body(), timeout=60)
    assert response.status_code == 200
    assert engine_server.call(engine_server.engine.probe("support@v0"))
    assert len(engine_server.records) == before


@pytest.mark.parametrize("streaming", [False, True])
def test_refused_requests_are_not_recorded(engine_server: EngineServer, streaming: bool) -> None:
    for request in ({"use_beam_search": True}, {"max_tokens": 5000}, {"model": "support@v99"}):
        completion_id = uuid.uuid4().hex
        response = httpx.post(
            f"{engine_server.url}/v1/chat/completions",
            json=body(stream=streaming, **request),
            headers={"X-Test-Completion": completion_id},
            timeout=60,
        )
        assert response.status_code in (400, 404), (request, response.text)
        assert engine_server.all_records(completion_id) == []


def test_other_protocols_are_recorded_alike(engine_server: EngineServer) -> None:
    requests = {
        "/v1/completions": {"model": "support@v0", "prompt": "Hello", "max_tokens": 8},
        "/v1/messages": {"model": "support@v0", "messages": body()["messages"], "max_tokens": 8},
        "/v1/responses": {"model": "support@v0", "input": "Hello", "max_output_tokens": 8},
    }
    for path, request in requests.items():
        completion_id = uuid.uuid4().hex
        response = httpx.post(
            engine_server.url + path, json=request, headers={"X-Test-Completion": completion_id}, timeout=60
        )
        assert response.status_code == 200, response.text
        choice = engine_server.record(completion_id).choices[0]
        assert 0 < len(choice.token_ids) <= 8
        assert len(choice.logprobs or ()) == len(choice.token_ids)
        assert not any(shown_logprobs(response.json()))
