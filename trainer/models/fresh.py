"""A tiny base made from nothing: byte-level BPE tokenizer and random-weight Llama, for demos and tests.

Knows tokenizers and Hugging Face model folders. Nothing is trained here but the tokenizer; `learn.sft` does the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from schemas.errors import ConfigError
from trainer.learn.config import FreshBaseConfig
from trainer.models.files import whole_folder

PAD, BOS, EOS = "<|pad|>", "<|begin|>", "<|end|>"


def make_fresh_base(
    out: Path, texts: Iterable[str], chat_template: str, config: FreshBaseConfig, specials: Sequence[str] = ()
) -> Path:
    """Write an untrained Llama with a tokenizer learned from `texts` to `out`, as a Hugging Face model folder.

    Args:
        out: must not exist.
        chat_template: Jinja; may use `<|begin|>`, `<|end|>` (the end-of-turn token) and `specials`.
        specials: further tokens that are never split.

    Returns:
        `out`. Equal inputs give equal bytes.

    Raises:
        ConfigError: the width can't be split among the heads.
        Conflict: `out` exists.
    """
    if config.hidden_size % config.heads:
        raise ConfigError("hidden_size is not a multiple of heads", field="hidden_size")
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocab_size,
        special_tokens=[PAD, BOS, EOS, *specials],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    raw.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        model_max_length=config.max_positions,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = chat_template
    shape = LlamaConfig(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        num_key_value_heads=config.heads,
        max_position_embeddings=config.max_positions,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        dtype="float32",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = LlamaForCausalLM(shape)
    with whole_folder(out) as work:
        model.save_pretrained(work)
        tokenizer.save_pretrained(work)
    return out
