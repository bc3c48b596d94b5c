"""The SFT stage from a file: tokens as they will be served, clear refusals, and that it learns."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from schemas.errors import InvalidInput
from tests.tiny_models import make_tiny_model
from trainer.gates.measure import answer_logprobs
from trainer.gates.sample import load_tokenizer, render_chat
from trainer.learn.config import LoraSettings, SftConfig
from trainer.models.adapter import load_role
from trainer.models.base import POLICY, SharedBase
from trainer.stages import read_demonstrations, run_sft

CHAT = [{"role": "user", "content": "Where is my order?"}, {"role": "assistant", "content": "It left on Monday."}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("sft") / "llama")


def write(path: Path, *lines: object) -> Path:
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines), encoding="utf-8")
    return path


def test_a_demonstration_is_prompt_answer_and_end_token(folder: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(folder)
    (item,) = read_demonstrations(write(tmp_path / "d.jsonl", {"messages": CHAT}, ""), tokenizer, ends=(2,))
    assert item.prompt_ids == render_chat(tokenizer, CHAT[:1])
    assert tokenizer.decode(list(item.answer_ids)) == "It left on Monday.<eos>"


def test_a_template_that_renders_a_finished_answer_otherwise_is_met_by_the_plain_text(
    folder: Path, tmp_path: Path
) -> None:
    tokenizer = load_tokenizer(folder)
    tokenizer.chat_template = "{{ messages[0]['content'] }}{% if add_generation_prompt %}:{% else %}!{% endif %}"
    (item,) = read_demonstrations(write(tmp_path / "d.jsonl", {"messages": CHAT}), tokenizer, ends=(2,))
    assert tokenizer.decode(list(item.prompt_ids)) == "Where is my order?:"
    assert tokenizer.decode(list(item.answer_ids)) == "It left on Monday.<eos>"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("nonsense", "line 2 of d.jsonl is no JSON"),
        ({"messages": CHAT[:1]}, "line 2 of d.jsonl is no demonstration"),
        ({"messages": CHAT[::-1]}, "the last message must be the assistant's"),
        ({"messages": CHAT, "weight": 2}, "weight: Extra inputs"),
    ],
)
def test_a_faulty_line_is_named(folder: Path, tmp_path: Path, line: object, words: str) -> None:
    file = write(tmp_path / "d.jsonl", {"messages": CHAT}, line)
    with pytest.raises(InvalidInput, match=words):
        read_demonstrations(file, load_tokenizer(folder), ends=(2,))


def test_a_missing_or_empty_file_is_refused(folder: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(folder)
    with pytest.raises(InvalidInput, match="cannot be read"):
        read_demonstrations(tmp_path / "none.jsonl", tokenizer, ends=(2,))
    with pytest.raises(InvalidInput, match="has no demonstrations"):
        read_demonstrations(write(tmp_path / "d.jsonl", ""), tokenizer, ends=(2,))


def test_an_adapter_learns_the_answer(folder: Path, tmp_path: Path) -> None:
    file = write(tmp_path / "d.jsonl", *[{"messages": CHAT}] * 8)
    config = SftConfig(method="lora", learning_rate=5e-3, epochs=8, batch_tokens=256)
    shape = LoraSettings(rank=4, alpha=8)
    out = run_sft(demonstrations=file, model=str(folder), out=tmp_path / "tuned", config=config, shape=shape)
    base = SharedBase.load(folder, shape)
    load_role(base, POLICY, out)
    (item,) = read_demonstrations(write(tmp_path / "one.jsonl", {"messages": CHAT}), load_tokenizer(folder), ends=(2,))
    pair = (item.prompt_ids, item.answer_ids)
    before = sum(answer_logprobs(base, None, [pair], token_budget=256)[0])
    after = sum(answer_logprobs(base, POLICY, [pair], token_budget=256)[0])
    assert after > before + len(item.answer_ids), "more than one nat per token"
