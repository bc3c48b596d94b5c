"""The study's sampler gives the trainer's own logprobs, the exact KL, and answers that depend on their seed alone."""

from __future__ import annotations

import pytest
import torch

from tests.bench.study.decoder import Decoder, draw
from tests.tiny_models import make_tiny_model
from trainer.gates.measure import answer_logprobs
from trainer.learn.config import LoraSettings
from trainer.models.base import POLICY, SharedBase

PROMPTS = [(1, 3, 40), (1, 3, 60, 61, 62), (1, 3, 90, 91, 92, 93, 94)]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> SharedBase:
    made = SharedBase.load(make_tiny_model(tmp_path_factory.mktemp("base")), LoraSettings(rank=4, alpha=8))
    made.open(POLICY, 0)
    noise = torch.Generator().manual_seed(1)
    weights = made.snapshot(POLICY)
    made.restore(POLICY, {name: one + 0.05 * torch.randn(one.shape, generator=noise) for name, one in weights.items()})
    return made


def test_logprobs_are_those_of_the_trainer(base: SharedBase) -> None:
    for role in (None, POLICY):
        drawn = draw(Decoder(base, role), PROMPTS, [5, 6, 7], ends=(2,), max_new_tokens=12)
        pairs = [(prompt, one.token_ids) for prompt, one in zip(PROMPTS, drawn, strict=True)]
        for one, expected in zip(drawn, answer_logprobs(base, role, pairs, token_budget=64), strict=True):
            assert one.logprobs == pytest.approx(expected, abs=1e-4)


def test_the_kl_is_that_of_the_next_token_distributions(base: SharedBase) -> None:
    policy, reference = Decoder(base, POLICY), Decoder(base, None)
    (one,) = draw(policy, PROMPTS[:1], [5], ends=(2,), max_new_tokens=1, beside=reference)
    with torch.no_grad():
        with base.role(POLICY):
            own = torch.log_softmax(base.module(input_ids=torch.tensor(PROMPTS[:1])).logits[0, -1], -1)
        with base.role(None):
            other = torch.log_softmax(base.module(input_ids=torch.tensor(PROMPTS[:1])).logits[0, -1], -1)
    assert one.kl == pytest.approx(float((own.exp() * (own - other)).sum()), rel=1e-3)
    assert draw(policy, PROMPTS[:1], [5], ends=(2,), max_new_tokens=1, beside=policy)[0].kl == 0.0


def test_an_answer_depends_on_its_prompt_and_seed_alone(base: SharedBase) -> None:
    decoder = Decoder(base, None)
    together = draw(decoder, PROMPTS * 4, [*range(12)], ends=(2, *range(100)), max_new_tokens=30)
    alone = [
        draw(decoder, [prompt], [seed], ends=(2, *range(100)), max_new_tokens=30)[0].token_ids
        for seed, prompt in enumerate(PROMPTS * 4)
    ]
    assert [one.token_ids for one in together] == alone
    assert len(set(map(len, alone))) > 1  # some ended while others went on
    assert len(set(alone[::3])) > 1
