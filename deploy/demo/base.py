"""Makes the demo's base model: a tiny Llama from nothing, taught the help desk by the trainer's SFT stage.

The result is cached under a digest of everything it depends on. The demonstrations mix styles at random, so the base
answers fluently, and well only now and then.
"""

import fcntl
import hashlib
import json
import logging
import tempfile
from dataclasses import asdict, dataclass, field
from importlib import resources
from pathlib import Path
from typing import Literal

import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from deploy.demo.domain import Demonstration, demonstrations
from trainer import data
from trainer.learn.config import FreshBaseConfig, SftConfig
from trainer.learn.progress import Progress, silent
from trainer.learn.sft import train_sft
from trainer.models.fresh import make_fresh_base

log = logging.getLogger(__name__)

ROLE_TOKENS = ("<|system|>", "<|user|>", "<|assistant|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
DIGIT_PAIR_REPEATS = 800
# What a base comes of: the answers' wording and how it is learnt. A change of any of them makes another base.
SOURCES = (
    ("deploy.demo", "base.py"),
    ("deploy.demo", "domain.py"),
    ("deploy.demo", "intents.toml"),
    ("deploy.demo", "phrases.py"),
    ("trainer.learn", "sft.py"),
    ("trainer.models", "batching.py"),
    ("trainer.models", "fresh.py"),
)


def fastest_type() -> Literal["off", "bfloat16"]:
    """bfloat16 where this CPU multiplies it; elsewhere PyTorch emulates it, 20 times slower than float32 (measured)."""
    able = torch.cpu.get_capabilities()
    return "bfloat16" if able.get("avx512_bf16") or able.get("amx_bf16") else "off"


@dataclass(frozen=True)
class BaseOptions:
    """How the base is made: from `demonstrations` drawn with `seed`, in `epochs` passes over them."""

    demonstrations: int = 12_000
    epochs: float = 1.0
    learning_rate: float = 3e-3
    batch_tokens: int = 1280
    vocabulary: int = 1280
    autocast: Literal["off", "bfloat16"] = field(default_factory=fastest_type)
    seed: int = 0


def base_digest(options: BaseOptions) -> str:
    """First 16 hex digits of a SHA-256 over the options and the sources that the base depends on."""
    digest = hashlib.sha256(json.dumps(asdict(options), sort_keys=True).encode())
    for package, name in SOURCES:
        digest.update(resources.files(package).joinpath(name).read_bytes())
    return digest.hexdigest()[:16]


def make_base(cache: Path, options: BaseOptions, progress: Progress = silent) -> Path:
    """The folder of the base model for these options, made if the cache lacks it: a Hugging Face model folder.

    Its generation config has no top_p or top_k, so that answers are drawn from the full distribution and their logged
    probabilities are exact.
    """
    out = cache / f"help-desk-{base_digest(options)}"
    if out.exists():
        return out
    cache.mkdir(parents=True, exist_ok=True)
    shown = demonstrations(options.demonstrations, options.seed)
    with (cache / ".lock").open("w") as lock, tempfile.TemporaryDirectory(dir=cache) as scratch:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if out.exists():  # by another demo or study, which began first
            return out
        fresh = Path(scratch) / "fresh"
        shape = FreshBaseConfig(
            vocab_size=options.vocabulary,
            hidden_size=192,
            heads=3,
            intermediate_size=384,
            max_positions=512,
            seed=options.seed,
        )
        make_fresh_base(fresh, _tokenizer_texts(shown), CHAT_TEMPLATE, shape, specials=ROLE_TOKENS)
        tokenizer = AutoTokenizer.from_pretrained(fresh)
        config = SftConfig(
            epochs=options.epochs,
            learning_rate=options.learning_rate,
            batch_tokens=options.batch_tokens,
            micro_batch_tokens=options.batch_tokens,
            autocast=options.autocast,
            seed=options.seed,
        )
        train_sft(fresh, [_tokenise(item, tokenizer) for item in shown], config, out, progress=progress)
    return out


def _tokenise(item: Demonstration, tokenizer: PreTrainedTokenizerBase) -> data.Demonstration:
    prompt = tokenizer.apply_chat_template(item.question.messages(), add_generation_prompt=True, tokenize=False)
    return data.Demonstration(
        prompt_ids=tuple(tokenizer.encode(prompt, add_special_tokens=False)),
        answer_ids=(*tokenizer.encode(item.answer, add_special_tokens=False), tokenizer.eos_token_id),
    )


def _tokenizer_texts(shown: list[Demonstration]) -> list[str]:
    """What the tokenizer is learnt from: the demonstrations, and every pair of digits often enough to be one token.

    A number such as 48-21 is then two tokens to copy, which so small a model learns within a minute.
    """
    texts = [text for item in shown for text in (item.question.text, item.answer)]
    return texts + [f" {number}-{number}" for number in range(10, 100)] * DIGIT_PAIR_REPEATS
