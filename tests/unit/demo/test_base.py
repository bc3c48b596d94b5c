"""The base is made once for each set of options, by the SFT stage, and samples from its full distribution."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from transformers import AutoTokenizer

from deploy.demo.base import CHAT_TEMPLATE, BaseOptions, base_digest, make_base
from deploy.demo.domain import held_out_questions

SMALL = BaseOptions(demonstrations=60, batch_tokens=1024)


def test_made_once_and_then_taken_from_the_cache(tmp_path: Path) -> None:
    steps: list[tuple[str, int, int]] = []
    made = make_base(tmp_path, SMALL, lambda stage, done, total, metrics: steps.append((stage, done, total)))
    assert steps
    assert steps[-1][1] == steps[-1][2]
    assert {path.name for path in tmp_path.iterdir()} == {made.name, ".lock"}  # nothing half made is left
    weights = (made / "model.safetensors").stat().st_mtime_ns
    again = make_base(tmp_path, SMALL, lambda *_: steps.append(("again", 0, 0)))
    assert again == made
    assert steps[-1][0] != "again"
    assert (made / "model.safetensors").stat().st_mtime_ns == weights
    generation = json.loads((made / "generation_config.json").read_text())
    assert not {"top_p", "top_k", "temperature"} & generation.keys()
    config = json.loads((made / "config.json").read_text())
    assert (config["hidden_size"], config["num_hidden_layers"], config["num_attention_heads"]) == (192, 4, 3)
    tokenizer = AutoTokenizer.from_pretrained(made)
    question = held_out_questions(1, seed=1)[0]
    prompt = tokenizer.apply_chat_template(question.messages(), add_generation_prompt=True, tokenize=False)
    assert prompt == f"<|user|>{question.text}<|end|><|assistant|>"
    assert tokenizer.chat_template == CHAT_TEMPLATE
    assert tokenizer.tokenize(" 48-21") == ["Ġ48", "-", "21"]  # two tokens to copy, whatever the number
    assert tokenizer.decode(tokenizer.encode(question.text)) == question.text


def test_two_at_once_make_it_once(tmp_path: Path) -> None:
    makers: set[int] = set()
    with ThreadPoolExecutor(2) as pool:
        made = [
            pool.submit(make_base, tmp_path, SMALL, lambda *_, maker=maker: makers.add(maker)) for maker in range(2)
        ]
        assert made[0].result() == made[1].result()
    assert len(makers) == 1


def test_the_digest_depends_on_every_option() -> None:
    digests = {
        base_digest(options)
        for options in (
            SMALL,
            replace(SMALL, seed=1),
            replace(SMALL, demonstrations=61),
            replace(SMALL, epochs=2.0),
            replace(SMALL, learning_rate=1e-3),
            replace(SMALL, autocast="bfloat16" if SMALL.autocast == "off" else "off"),
        )
    }
    assert len(digests) == 6
    assert base_digest(SMALL) == base_digest(replace(SMALL))
