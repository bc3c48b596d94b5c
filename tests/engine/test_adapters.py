"""Adapters come and go under load, names are never reused, and only the allowed routes are left."""

from __future__ import annotations

import asyncio
import uuid
from pathlib import Path

import httpx
import pytest
import torch
from openai import AsyncOpenAI
from peft import PeftModel
from transformers import AutoModelForCausalLM

from exchange.fingerprint import base_fingerprint, chat_template_hash
from schemas.errors import AttuneError
from server.engine.errors import AdapterError, EngineSettingsError
from server.engine.settings import EngineSettings
from tests.engine.client import body
from tests.engine_server import ENGINE_MARKS, EngineServer

pytestmark = ENGINE_MARKS


def fresh_name() -> str:
    return f"support@swap-{uuid.uuid4().hex[:6]}"


@pytest.fixture(autouse=True)
def free_slots(engine_server: EngineServer) -> None:
    for name in engine_server.engine.loaded():
        engine_server.call(engine_server.engine.unload_adapter(name))


def test_swap_under_load_fails_no_request(engine_server: EngineServer, tiny_adapters: list[Path]) -> None:
    engine = engine_server.engine
    names = [fresh_name() for _ in range(3)]
    engine_server.call(engine.load_adapter(names[0], tiny_adapters[0]))

    async def drive() -> tuple[list[tuple[str, str]], list[str]]:
        current, stop, sent = names[0], asyncio.Event(), []
        failures: list[str] = []

        async def user() -> None:
            while not stop.is_set():
                model, completion_id = current, uuid.uuid4().hex
                with engine.hold(model):
                    response = await client.post(
                        "/v1/chat/completions",
                        json=body(model=model, max_tokens=12),
                        headers={"X-Test-Completion": completion_id},
                    )
                if response.status_code != 200:
                    failures.append(response.text)
                sent.append((model, completion_id))

        async with httpx.AsyncClient(base_url=engine_server.url, timeout=60) as client:
            users = [asyncio.create_task(user()) for _ in range(8)]
            for old, new, path in zip(names, names[1:], tiny_adapters[1:], strict=False):
                await asyncio.sleep(0.5)
                await engine.load_adapter(new, path)
                assert await engine.probe(new)
                current = new
                await engine.drain(old)
                await engine.unload_adapter(old)
            await asyncio.sleep(0.5)
            stop.set()
            await asyncio.gather(*users)
        return sent, failures

    sent, failures = engine_server.call(drive())
    assert failures == []
    assert {model for model, _ in sent} == set(names)
    for model, completion_id in sent:
        assert engine_server.record(completion_id).adapter == model
    assert engine.loaded() == [names[2]]
    assert engine.in_flight(names[2]) == 0


def test_adapters_answer_with_their_own_weights(
    engine_server: EngineServer, tiny_model: Path, tiny_adapters: list[Path]
) -> None:
    engine = engine_server.engine
    prompt, answer = [1, 3, 40, 90, 120, 2, 4], [200, 33, 310, 7]
    for path in tiny_adapters[:2]:
        name = fresh_name()
        engine_server.call(engine.load_adapter(name, path))
        scores = engine_server.call(engine.score(name, prompt, answer))
        network = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32), path)
        with torch.no_grad():
            logits = network(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
        expected = logits.log_softmax(-1).gather(-1, torch.tensor(answer)[:, None])[:, 0]
        torch.testing.assert_close(torch.tensor(scores), expected, atol=1e-3, rtol=0)
    base = engine_server.call(engine.score("support@v0", prompt, answer))
    assert max(abs(a - b) for a, b in zip(base, scores, strict=True)) > 0.01


def test_prompts_are_scored_alike_beside_other_requests(engine_server: EngineServer, tiny_adapters: list[Path]) -> None:
    """Of vLLM's own, prompt logprobs in one batch with another request end the engine (see server.engine.worker)."""
    engine, name = engine_server.engine, fresh_name()
    engine_server.call(engine.load_adapter(name, tiny_adapters[0]))
    prompt, answer = list(range(10, 40)), [200, 33, 310, 7]

    async def scene() -> tuple[list[list[float]], set[int]]:
        async with httpx.AsyncClient(base_url=engine_server.url, timeout=60) as client:
            asked = [body(model=name), body(model=name, prompt_logprobs=1), body(prompt_logprobs=1)] * 4
            chats = [asyncio.create_task(client.post("/v1/chat/completions", json=one)) for one in asked]
            scores = await asyncio.gather(*(engine.score(name, prompt, answer) for _ in range(6)))
            return scores, {chat.status_code for chat in await asyncio.gather(*chats)}

    alone = engine_server.call(engine.score(name, prompt, answer))
    scores, statuses = engine_server.call(scene())
    assert statuses == {200}
    for one in scores:
        torch.testing.assert_close(torch.tensor(one), torch.tensor(alone), atol=1e-4, rtol=0)


def test_drain_waits_for_holders_and_unload_refuses_before(
    engine_server: EngineServer, tiny_adapters: list[Path]
) -> None:
    engine, name = engine_server.engine, fresh_name()

    async def scene() -> list[str]:
        seen = []
        await engine.load_adapter(name, tiny_adapters[0])
        with engine.hold(name):
            drained = asyncio.create_task(engine.drain(name))
            await asyncio.sleep(0.05)
            seen.append("waiting" if not drained.done() else "drained")
            with pytest.raises(AdapterError, match="still used by 1"):
                await engine.unload_adapter(name)
        await drained
        await engine.unload_adapter(name)
        seen.append("unloaded" if name not in engine.loaded() else "loaded")
        return seen

    assert engine_server.call(scene()) == ["waiting", "unloaded"]


def test_names_are_bound_to_their_files_and_slots_are_bounded(
    engine_server: EngineServer, tiny_adapters: list[Path]
) -> None:
    engine = engine_server.engine
    names = [fresh_name() for _ in range(4)]
    for name in names[:3]:
        engine_server.call(engine.load_adapter(name, tiny_adapters[0]))
    with pytest.raises(AdapterError, match="All 3 adapter slots"):
        engine_server.call(engine.load_adapter(names[3], tiny_adapters[0]))
    engine_server.call(engine.unload_adapter(names[0]))
    with pytest.raises(AdapterError, match="was used before"):
        engine_server.call(engine.load_adapter(names[0], tiny_adapters[1]))
    with pytest.raises(AdapterError, match="was used before"):
        engine_server.call(engine.load_adapter(names[1], tiny_adapters[0]))
    engine_server.call(engine.load_adapter(names[0], tiny_adapters[0]))
    assert engine.loaded() == [names[1], names[2], names[0]]
    assert engine_server.call(engine.probe(names[0])) == engine_server.call(engine.probe(names[1]))


def test_broken_adapter_is_refused_and_the_engine_lives_on(
    engine_server: EngineServer, tiny_adapters: list[Path], tmp_path: Path
) -> None:
    engine, name = engine_server.engine, fresh_name()
    with pytest.raises(AdapterError, match="cannot load adapter"):
        engine_server.call(engine.load_adapter(name, tmp_path))
    assert engine.loaded() == []
    engine_server.call(engine.load_adapter(name, tiny_adapters[0]))
    assert engine.loaded() == [name]
    assert not engine.errored
    assert engine_server.call(engine.probe("support@v0"))
    assert engine.progress_age_s() < 60
    with pytest.raises(AdapterError, match="not loaded"):
        engine_server.call(engine.probe("support@v404"))


async def test_openai_sdk_works_unchanged(engine_server: EngineServer) -> None:
    async with AsyncOpenAI(base_url=f"{engine_server.url}/v1", api_key="none") as client:
        stream = await client.chat.completions.create(
            model="support@v0", messages=[{"role": "user", "content": "Hello"}], max_tokens=8, stream=True
        )
        assert len([chunk async for chunk in stream]) > 1


def test_only_allowed_routes_are_left(engine_server: EngineServer) -> None:
    left = sorted({route.path for route in engine_server.engine.app.routes})  # type: ignore[attr-defined]
    assert left == [
        "/detokenize",
        "/tokenize",
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/messages",
        "/v1/messages/count_tokens",
        "/v1/responses",
    ]
    for path in ("/v1/load_lora_adapter", "/scale_elastic_ep", "/invocations", "/inference/v1/generate", "/pause"):
        assert httpx.post(engine_server.url + path, json={}).status_code == 404
    assert httpx.get(f"{engine_server.url}/v1/models").status_code == 404, "vLLM's own list shows paths"


def test_identity_of_the_base_is_computed_from_its_files(engine_server: EngineServer, tiny_model: Path) -> None:
    assert engine_server.engine.base_fingerprint == base_fingerprint(tiny_model)
    assert engine_server.engine.chat_template_hash == chat_template_hash(tiny_model)
    assert engine_server.engine.max_model_len == 512


def test_flags_that_vllm_does_not_know_are_refused_by_name() -> None:
    from server.engine.build import parse_flags

    with pytest.raises(EngineSettingsError, match="--no-such-flag") as refused:
        parse_flags(EngineSettings(model="m", base_names=("a@v0",), vllm_args={"no-such-flag": 3}))
    assert isinstance(refused.value, AttuneError)
    args = parse_flags(
        EngineSettings(model="m", base_names=("a@v0", "b@v0"), vllm_args={"max_model_len": 64, "enforce-eager": True})
    )
    assert (args.model, args.served_model_name, args.max_model_len) == ("m", ["a@v0", "b@v0"], 64)
    assert (args.enable_lora, args.logprobs_mode, args.max_loras, args.enforce_eager) == (
        True,
        "processed_logprobs",
        3,
        True,
    )
