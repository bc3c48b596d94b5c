"""What the trainer believes that top_k and top_p keep is what vLLM keeps: its sampler alone, and the engine's logs."""

from __future__ import annotations

import uuid
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.engine.client import chat
from tests.engine_server import ENGINE_MARKS, EngineServer
from trainer.algorithms.truncation import confine, kept_set
from trainer.data import LoggedAnswer
from trainer.learn.config import LoraSettings, PpoConfig
from trainer.learn.replay import replay
from trainer.models.base import SharedBase

pytestmark = ENGINE_MARKS

VOCABULARY, ROWS = 1000, 64


@pytest.fixture(scope="module")
def truncate() -> Callable[..., Tensor]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what vLLM's imports warn of is not ours
        from vllm.v1.sample.ops.topk_topp_sampler import apply_top_k_top_p_pytorch
    return apply_top_k_top_p_pytorch  # type: ignore[no-any-return]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("which", ["top_k", "top_p", "both", "ties"])
def test_kept_sets_and_logprobs_are_those_of_the_sampler(
    truncate: Callable[..., Tensor], seed: int, which: str
) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(ROWS, VOCABULARY, generator=generator)
    if which == "ties":
        logits = logits.round()
    top_k = torch.randint(1, VOCABULARY + 1, (ROWS,), generator=generator)
    top_p = torch.rand(ROWS, generator=generator).clamp(min=0.01)
    with_k, with_p = which != "top_p", which in ("top_p", "both")
    theirs = truncate(
        logits.clone(),
        top_k.clone().int() if with_k else None,
        top_p.clone() if with_p else None,
        allow_cpu_sync=True,
    )
    ours = kept_set(logits, top_k if with_k else torch.zeros_like(top_k), top_p if with_p else torch.ones_like(top_p))
    assert torch.equal(ours, theirs > -torch.inf)
    found = torch.log_softmax(confine(logits, ours), -1)
    assert torch.equal(found[ours], torch.log_softmax(theirs, -1)[ours])


def test_what_the_engine_logs_of_truncated_answers_is_replayed(
    engine_server: EngineServer, tiny_model: Path, tiny_adapters: list[Path]
) -> None:
    name = f"support@replay-{uuid.uuid4().hex[:6]}"
    engine_server.call(engine_server.engine.load_adapter(name, tiny_adapters[1]))
    cuts = ({"top_k": 20, "top_p": 0.8}, {"top_p": 0.9}, {"top_k": 5, "temperature": 0.7}, {"top_k": 50, "top_p": 0.95})
    answers = []
    for version, model in enumerate(("support@v0", name)):
        for number, cut in enumerate(cuts):
            _, record = chat(engine_server, model=model, n=4, seed=number, **cut)
            answers += [
                LoggedAnswer(
                    sample_id=f"v{version}-{number}-{choice.index}",
                    completion_id=f"{version}-{number}",
                    choice=choice.index,
                    prompt_ids=tuple(record.prompt_token_ids),
                    answer_ids=tuple(choice.token_ids),
                    behaviour_logprobs=tuple(choice.logprobs or ()),
                    temperature=record.sampling.temperature,
                    top_p=record.sampling.top_p,
                    top_k=record.sampling.top_k,
                    behaviour_version=version,
                    reward=0.0,
                    group="u",
                )
                for choice in record.choices
            ]
    base = SharedBase.load(tiny_model, LoraSettings(rank=8, alpha=16))
    found = replay(base, answers, {1: tiny_adapters[1]}, PpoConfig(), lambda _done, _total: None)
    assert found.left_out == {}
    assert found.kept is not None
    assert len(found.answers) == 2 * 4 * len(cuts)
    swapped = replay(base, answers, {1: tiny_adapters[2]}, PpoConfig(), lambda _done, _total: None)
    assert {answer.behaviour_version for answer in swapped.answers} == {0}, "another adapter does not pass for it"
