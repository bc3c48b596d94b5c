"""Batched logprobs, scores and drift against one-row-at-a-time loops, for three architectures."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import get_args

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from tests.tiny_models import Architecture, make_tiny_model
from trainer.data import LoggedAnswer, TokenPair
from trainer.learn.config import LoraSettings
from trainer.learn.drift import measure_drift
from trainer.models.adapter import load_role, save_role
from trainer.models.base import POLICY, SharedBase
from trainer.models.batching import TokenBatch, make_batch, micro_batches, pad_batch
from trainer.models.forward import log_softmax, pick_tokens

LORA = LoraSettings(rank=4, alpha=8)


@pytest.fixture(scope="module", params=get_args(Architecture))
def model_dir(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("models") / request.param, request.param)


@pytest.fixture(scope="module")
def base(model_dir: Path) -> SharedBase:
    """A base whose roles all differ from it and from each other."""
    base = SharedBase.load(model_dir, LORA)
    for seed, role in enumerate((POLICY, "reward", "critic")):
        base.open(role, seed)
        adapter = {name for name in base.parameters(role) if not name.startswith("head.")}
        assert adapter == set(base.parameters(POLICY))
        generator = torch.Generator().manual_seed(seed)
        noise = {name: 0.05 * torch.randn(w.shape, generator=generator) for name, w in base.snapshot(role).items()}
        base.restore(role, noise)
    return base


def _pairs() -> list[TokenPair]:
    """Nine answers to six prompts: three prompts have two, and not next to each other."""
    rng = random.Random(1)
    prompts = [tuple(rng.randrange(6, 260) for _ in range(rng.randint(1, 9))) for _ in range(6)]
    answers = [tuple(rng.randrange(6, 260) for _ in range(rng.randint(1, 7))) for _ in range(9)]
    return [(prompts[row % 6], answer) for row, answer in enumerate(answers)]


def _naive(base: SharedBase, prompt: tuple[int, ...], answer: tuple[int, ...], heat: float) -> list[float]:
    ids = torch.tensor([[*prompt, *answer]])
    logits = base.module(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0].double() / heat
    log_p = torch.log_softmax(logits, -1)
    return [float(log_p[len(prompt) - 1 + j, token]) for j, token in enumerate(answer)]


@torch.no_grad()
@pytest.mark.parametrize("role", [None, POLICY])
@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("budget", [1, 30, 4096])
def test_logprobs_do_not_depend_on_batching(base: SharedBase, role: str | None, budget: int, packed: bool) -> None:
    pairs = _pairs()
    heats = torch.linspace(0.5, 1.5, len(pairs))
    seen = []
    for batch in micro_batches(pairs, range(len(pairs)), budget, base.device, packed=packed):
        with base.role(role):
            found = pick_tokens(log_softmax(base.logits(batch), batch, heats[list(batch.rows)]), batch)
            for place, row in enumerate(batch.rows):
                expected = _naive(base, *pairs[row], float(heats[row]))
                assert found[place, : len(expected)].tolist() == pytest.approx(expected, abs=1e-4)
                assert float(found[place, len(expected) :].abs().sum()) == 0
                seen.append(row)
    assert sorted(seen) == list(range(len(pairs)))


@torch.no_grad()
def test_roles_differ_and_the_reference_is_the_untouched_base(base: SharedBase, model_dir: Path) -> None:
    prompt, answer = _pairs()[0]
    plain = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)
    ids = torch.tensor([[*prompt, *answer]])
    expected = plain(input_ids=ids).logits
    with base.role(None):
        assert torch.equal(base.module(input_ids=ids).logits, expected)
    outputs = []
    for role in (POLICY, "reward", "critic"):
        with base.role(role):
            outputs.append(base.module(input_ids=ids).logits)
        assert float((outputs[-1] - expected).abs().max()) > 1e-2
    assert float((outputs[0] - outputs[1]).abs().max()) > 1e-2


@torch.no_grad()
@pytest.mark.parametrize("packed", [True, False])
def test_scores_and_values_come_from_the_right_states(base: SharedBase, packed: bool) -> None:
    pairs = _pairs()
    batch = make_batch(pairs, range(len(pairs)), base.device, packed=packed)
    head = base.parameters("reward")
    with base.role("reward"):
        scores, values = base.scalar("reward", batch), base.scalars("reward", batch)
        means = base.scalar("reward", batch, "mean")
        for row, (prompt, answer) in enumerate(pairs):
            ids = torch.tensor([[*prompt, *answer]])
            states = base.module(input_ids=ids, output_hidden_states=True).hidden_states[-1][0]
            numbers = states @ head["head.weight"][0] + head["head.bias"]
            assert scores[row].item() == pytest.approx(float(numbers[-1]), abs=1e-4)
            assert means[row].item() == pytest.approx(float(numbers[len(prompt) :].mean()), abs=1e-4)
            expected = numbers[len(prompt) - 1 : len(prompt) - 1 + len(answer)].tolist()
            assert values[row, : len(answer)].tolist() == pytest.approx(expected, abs=1e-4)


def test_only_the_role_in_play_gets_a_gradient_and_padding_changes_none_of_it(base: SharedBase) -> None:
    pairs = _pairs()

    def gradients(batch: TokenBatch) -> dict[str, torch.Tensor]:
        with base.role(POLICY):
            logits = base.logits(batch)
        torch.autograd.backward(pick_tokens(log_softmax(logits, batch), batch).sum())
        found = {name: w.grad.clone() for name, w in base.parameters(POLICY).items() if w.grad is not None}
        for weight in base.parameters(POLICY).values():
            weight.grad = None
        return found

    every = range(len(pairs))
    first, second = (gradients(pad_batch(pairs, every, base.device, pad_id)) for pad_id in (0, 257))
    together = base.batch(pairs, every)
    assert together.segments
    packed = gradients(together)
    largest = max(float(grad.abs().max()) for grad in first.values())
    assert all(float((first[name] - packed[name]).abs().max()) < 1e-5 * largest for name in first)
    modes = [layer.training for layer in base.module.modules()]
    with base.computing(checkpointing=True):
        recomputed = gradients(together)
    assert all(torch.equal(packed[name], recomputed[name]) for name in first)
    assert [layer.training for layer in base.module.modules()] == modes
    assert first.keys() == base.parameters(POLICY).keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert all(w.grad is None for role in ("reward", "critic") for w in base.parameters(role).values())
    assert all(w.grad is None for name, w in base.module.named_parameters() if "lora_" not in name)


@torch.no_grad()
def test_drift_against_a_loop(base: SharedBase) -> None:
    pairs = _pairs()
    answers, totals, tokens = [], [], 0
    for row, (prompt, answer) in enumerate(pairs):
        ids = torch.tensor([[*prompt, *answer]])
        log_p = []
        for role in (POLICY, None):
            with base.role(role):
                log_p.append(torch.log_softmax(base.module(input_ids=ids).logits[0].double() / 0.8, -1))
        span = slice(len(prompt) - 1, len(prompt) - 1 + len(answer))
        totals.append(float((log_p[0].exp() * (log_p[0] - log_p[1])).sum(-1)[span].sum()))
        tokens += len(answer)
        with base.role(POLICY):
            logged = tuple(_naive(base, prompt, answer, 0.8))
        answers.append(LoggedAnswer(f"s{row}", f"c{row}", 0, prompt, answer, logged, 0.8, 1.0, 0, 1, None, "u"))
    found = measure_drift(base, answers, prefix_cap=5.0, micro_batch_tokens=40)
    assert found.logged == pytest.approx(sum(totals) / len(totals), rel=1e-4)
    assert found.per_token == pytest.approx(sum(totals) / tokens, rel=1e-4)
    assert found.weighted == pytest.approx(found.logged, rel=1e-3)  # the samples are the policy's own
    assert found.kl > 0.01


@torch.no_grad()
def test_a_saved_adapter_is_peft_s_and_has_equal_bytes_and_no_path(
    base: SharedBase, model_dir: Path, tmp_path: Path
) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        save_role(base, POLICY, tmp_path / name)
    for file in ("adapter_model.safetensors", "adapter_config.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    stored = json.loads((tmp_path / "one" / "adapter_config.json").read_text())
    assert stored["base_model_name_or_path"] == "base"
    assert str(model_dir) not in json.dumps(stored)
    assert stored["target_modules"] == sorted(
        ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    )
    ids = torch.tensor([[5, 6, 7, 8]])
    plain = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)
    loaded = PeftModel.from_pretrained(plain, str(tmp_path / "one")).eval()
    with base.role(POLICY):
        torch.testing.assert_close(loaded(input_ids=ids).logits, base.module(input_ids=ids).logits)
    again = SharedBase.load(model_dir, LORA)
    load_role(again, POLICY, tmp_path / "one")
    assert all(torch.equal(w, base.snapshot(POLICY)[name]) for name, w in again.snapshot(POLICY).items())
