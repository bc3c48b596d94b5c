"""Sampling and measuring with a real tiny model: against naive references, and against what a model's defaults add."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from tests.tiny_models import make_tiny_model
from trainer.gates.measure import answer_logprobs, measure_policy
from trainer.gates.sample import end_tokens, load_tokenizer, render_chat, sample
from trainer.learn.config import LoraSettings
from trainer.models.base import POLICY, SharedBase
from trainer.suites.cases import SuiteCase
from trainer.suites.loading import Suites
from trainer.suites.run import SuiteAnswers, answer_suite, changed_examples, judged

LENGTHS = {"max_new_tokens": 6, "batch_size": 4, "token_budget": 128}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = make_tiny_model(tmp_path_factory.mktemp("measure") / "llama")
    config = made / "generation_config.json"
    # What a model ships with must not narrow what is measured: top_k 1 would make sampling greedy.
    config.write_text(json.dumps(json.loads(config.read_text()) | {"top_k": 1, "top_p": 0.5, "do_sample": True}))
    return made


@pytest.fixture(scope="module")
def base(folder: Path) -> SharedBase:
    base = SharedBase.load(folder, LoraSettings(rank=4, alpha=8))
    base.open(POLICY, 0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in base.parameters(POLICY).items():
            if "lora_B" in name:
                weight.copy_(0.05 * torch.randn(weight.shape, generator=generator))
    return base


@pytest.fixture(scope="module")
def prompts(folder: Path) -> list[tuple[int, ...]]:
    tokenizer = load_tokenizer(folder)
    texts = ["Hello", "Where is my order?", "Reset my password, please", "ok"]
    return [render_chat(tokenizer, [{"role": "user", "content": text}]) for text in texts]


def test_answers_do_not_depend_on_the_batch_they_are_sampled_in(
    base: SharedBase, prompts: list[tuple[int, ...]]
) -> None:
    together = sample(base, POLICY, prompts, max_new_tokens=8, greedy=True, seed=0)
    alone = [sample(base, POLICY, [prompt], max_new_tokens=8, greedy=True, seed=0)[0] for prompt in prompts]
    assert together == alone


def test_sampling_is_seeded_whole_and_leaves_the_global_generator_alone(
    base: SharedBase, prompts: list[tuple[int, ...]]
) -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first = sample(base, None, prompts, max_new_tokens=8, greedy=False, seed=3)
    assert torch.rand(1) == expected
    assert first == sample(base, None, prompts, max_new_tokens=8, greedy=False, seed=3)
    assert first != sample(base, None, prompts, max_new_tokens=8, greedy=False, seed=4)
    assert first != sample(base, None, prompts, max_new_tokens=8, greedy=True, seed=3)


def test_answers_end_with_their_end_token(folder: Path, base: SharedBase, prompts: list[tuple[int, ...]]) -> None:
    ends = end_tokens(folder, load_tokenizer(folder))
    answers = sample(base, None, prompts * 16, max_new_tokens=40, greedy=False, seed=0)
    assert all(token not in ends for answer in answers for token in answer[:-1])
    assert any(answer[-1] in ends for answer in answers)


def naive(base: SharedBase, role: str | None, prompt: tuple[int, ...], answer: tuple[int, ...]) -> torch.Tensor:
    """Next-token log-distributions over an answer, one forward pass without padding: [A, V]."""
    with torch.no_grad(), base.role(role):
        logits = base.module(input_ids=torch.tensor([[*prompt, *answer]])).logits[0].double()
    return torch.log_softmax(logits[len(prompt) - 1 : -1], dim=-1)


def test_kl_entropy_and_length_equal_a_naive_reference(base: SharedBase, prompts: list[tuple[int, ...]]) -> None:
    measured = measure_policy(base, POLICY, prompts, seed=7, **LENGTHS)
    answers = sample(base, POLICY, prompts, max_new_tokens=6, greedy=False, seed=7, batch_size=4)
    kl = entropy = 0.0
    for prompt, answer in zip(prompts, answers, strict=True):
        policy, reference = naive(base, POLICY, prompt, answer), naive(base, None, prompt, answer)
        kl += float((policy.exp() * (policy - reference)).sum())
        entropy -= float((policy.exp() * policy).sum())
    assert measured.lengths == tuple(len(answer) for answer in answers)
    assert measured.kl_nats_per_sequence == pytest.approx(kl / len(prompts), rel=1e-4)
    assert measured.entropy_nats_per_token == pytest.approx(entropy / sum(measured.lengths), rel=1e-4)
    assert measured.kl_nats_per_sequence > 0.01


def test_the_base_has_no_kl_and_nothing_is_measured_without_prompts(
    base: SharedBase, prompts: list[tuple[int, ...]]
) -> None:
    assert measure_policy(base, None, prompts, seed=7, **LENGTHS).kl_nats_per_sequence == 0.0
    empty = measure_policy(base, POLICY, [], seed=7, **LENGTHS)
    assert (empty.lengths, empty.kl_nats_per_sequence, empty.entropy_nats_per_token) == ((), None, None)


def test_answer_logprobs_equal_a_naive_reference(base: SharedBase, prompts: list[tuple[int, ...]]) -> None:
    answers = sample(base, POLICY, prompts, max_new_tokens=6, greedy=True, seed=0)
    pairs = list(zip(prompts, answers, strict=True))
    for (prompt, answer), found in zip(pairs, answer_logprobs(base, POLICY, pairs, token_budget=64), strict=True):
        expected = naive(base, POLICY, prompt, answer)[range(len(answer)), list(answer)]
        assert found == pytest.approx(expected.tolist(), abs=1e-4)


def test_a_suite_is_put_to_the_role_it_names(folder: Path, base: SharedBase) -> None:
    tokenizer = load_tokenizer(folder)
    prompt = render_chat(tokenizer, [{"role": "user", "content": "Hello"}])
    answer = sample(base, POLICY, [prompt], max_new_tokens=8, greedy=True, seed=0)[0]
    said = tokenizer.decode(list(answer), skip_special_tokens=True)
    other = tokenizer.decode(
        list(sample(base, None, [prompt], max_new_tokens=8, greedy=True, seed=0)[0]), skip_special_tokens=True
    )
    assert said != other
    case = SuiteCase.model_validate(
        {"name": "says-it", "messages": [{"role": "user", "content": "Hello"}], "must_match": [re.escape(said)]}
    )
    after = answer_suite(base, POLICY, tokenizer, [case], max_new_tokens=8, batch_size=2)
    before = answer_suite(base, None, tokenizer, [case], max_new_tokens=8, batch_size=2)
    assert (after, before) == ({"says-it": said}, {"says-it": other})
    assert judged([case], after) == {"says-it": True}
    assert judged([case], before) == {"says-it": False}


def test_examples_show_what_changed_first_and_cut_what_is_long() -> None:
    cases = [
        SuiteCase.model_validate(
            {"name": name, "messages": [{"role": "user", "content": f"{name}?"}], "must_match": ["x"]}
        )
        for name in ("a", "b", "c")
    ]
    suites = Suites(ability=tuple(cases[:2]), red_team=(cases[0], cases[2]))  # one name in both suites
    before = SuiteAnswers({"a": "same", "b": "old"}, {"a": "bad", "c": "same"})
    after = SuiteAnswers({"a": "same", "b": "y" * 900}, {"a": "good", "c": "same"})
    first, second, third = changed_examples(suites, before, after, most=3)
    assert (first.name, first.question, first.before) == ("b", "b?", "old")
    assert (len(first.after), first.after[-1]) == (500, "…")
    assert (second.name, second.before, second.after) == ("a", "bad", "good")
    assert (third.name, third.before, third.after) == ("a", "same", "same")
