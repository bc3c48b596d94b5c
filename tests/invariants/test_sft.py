"""Supervised fine-tuning imitates, repeats itself to the byte, and writes what serving can read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from schemas.errors import Conflict, InvalidInput
from tests.invariants.worlds import prompts
from trainer.data import Demonstration
from trainer.learn.config import FreshBaseConfig, LoraSettings, SftConfig
from trainer.learn.sft import train_sft
from trainer.models.adapter import load_role
from trainer.models.base import POLICY, SharedBase
from trainer.models.files import folder_digest
from trainer.models.fresh import make_fresh_base

TEMPLATE = "{% for m in messages %}<|begin|>{{ m['role'] }}\n{{ m['content'] }}<|end|>{% endfor %}"
SHAPE = FreshBaseConfig(vocab_size=300, hidden_size=64, layers=2, heads=1, intermediate_size=128, max_positions=64)
TEXTS = ["Where is my order?", "Your order is on its way.", "Thank you!"] * 5
CONFIG = SftConfig(epochs=3, learning_rate=5e-3, batch_tokens=128)


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_fresh_base(tmp_path_factory.mktemp("fresh") / "base", TEXTS, TEMPLATE, SHAPE)


def _demonstrations() -> list[Demonstration]:
    """The answer repeats the prompt's first token and ends."""
    return [Demonstration(prompt, (prompt[0], 2)) for prompt in prompts(300, seed=1)]


def test_a_fresh_base_is_the_same_every_time(fresh: Path, tmp_path: Path) -> None:
    again = make_fresh_base(tmp_path / "again", TEXTS, TEMPLATE, SHAPE)
    assert folder_digest(again) == folder_digest(fresh)
    tokenizer = AutoTokenizer.from_pretrained(fresh)
    text = "Where is my ørder 4711?"
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text
    assert tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False) == (
        "<|begin|>user\nHi<|end|>"
    )


@torch.no_grad()
def test_full_fine_tuning_imitates_and_repeats_to_the_byte(fresh: Path, tmp_path: Path) -> None:
    losses: list[float] = []

    def watch(stage: str, done: int, total: int, metrics: Mapping[str, float]) -> None:
        losses.append(metrics["loss_nats_per_token"])

    with torch.enable_grad():
        first = train_sft(fresh, _demonstrations(), CONFIG, tmp_path / "one", progress=watch)
        second = train_sft(fresh, _demonstrations(), CONFIG, tmp_path / "two")
    assert losses[-1] < 0.5 * losses[0]
    assert folder_digest(first) == folder_digest(second)
    model = AutoModelForCausalLM.from_pretrained(first, dtype=torch.float32)
    hits = 0
    for item in _demonstrations()[:50]:
        logits = model(input_ids=torch.tensor([[*item.prompt_ids, item.answer_ids[0]]])).logits[0]
        hits += int(logits[-1].argmax()) == 2
    assert hits == 50
    assert AutoTokenizer.from_pretrained(first).eos_token == "<|end|>"
    with pytest.raises(Conflict):
        train_sft(fresh, _demonstrations(), CONFIG, tmp_path / "one")


def test_lora_fine_tuning_writes_an_adapter_and_leaves_the_base_alone(fresh: Path, tmp_path: Path) -> None:
    before = folder_digest(fresh)
    lora = LoraSettings(rank=4, alpha=8)
    config = CONFIG.model_copy(update={"method": "lora", "learning_rate": 2e-2})
    losses: list[float] = []
    out = train_sft(
        fresh,
        _demonstrations(),
        config,
        tmp_path / "adapter",
        lora=lora,
        progress=lambda stage, done, total, metrics: losses.append(metrics["loss_nats_per_token"]),
    )
    assert losses[-1] < 0.9 * losses[0]
    assert folder_digest(fresh) == before
    assert sorted(path.name for path in out.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    base = SharedBase.load(fresh, lora)
    load_role(base, POLICY, out)
    assert any(float(w.detach().abs().max()) > 0 for name, w in base.parameters(POLICY).items() if ".lora_B." in name)


def test_prompts_count_only_if_asked(fresh: Path, tmp_path: Path) -> None:
    seen: list[float] = []
    for number, train_on_prompt in enumerate((False, True)):
        config = SftConfig(epochs=0.1, learning_rate=1e-9, train_on_prompt=train_on_prompt)
        item = Demonstration((20, 21, 22), (23,))
        train_sft(
            fresh,
            [item],
            config,
            tmp_path / f"{number}",
            progress=lambda stage, done, total, metrics: seen.append(metrics["loss_nats_per_token"]),
        )
    with torch.no_grad():
        log_p = torch.log_softmax(
            AutoModelForCausalLM.from_pretrained(fresh, dtype=torch.float32)(
                input_ids=torch.tensor([[20, 21, 22, 23]])
            ).logits[0],
            -1,
        )
    each = [-float(log_p[t, 21 + t]) for t in range(3)]
    assert seen == [pytest.approx(each[2], abs=1e-4), pytest.approx(sum(each) / 3, abs=1e-4)]


def test_no_demonstrations_are_refused(fresh: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="no demonstrations"):
        train_sft(fresh, [], CONFIG, tmp_path / "out")
    assert not (tmp_path / "out").exists()
