"""Random-weight models small enough to start in a test: a few hundred kilobytes on disk, real architectures, real
tokenizer files.

Knows how to write a Hugging Face model folder and a PEFT adapter folder. Knows nothing of Attune. Nothing here is
trained: texts these models write are noise, and only numbers (token ids, logprobs, shapes) are worth a look.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    GemmaConfig,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
)

Architecture = Literal["llama", "qwen3", "gemma"]

VOCAB_SIZE = 512
SPECIAL_TOKENS = ("<pad>", "<bos>", "<eos>", "<user>", "<assistant>", "<system>")
CHAT_TEMPLATE = (
    "{{ '<bos>' }}{% for message in messages %}{{ '<' + message['role'] + '>' + message['content'] + '<eos>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)
CORPUS = (
    "Hello, how can I help you today? My order has not arrived yet and I would like to know where it is.",
    "Your parcel left our warehouse on Monday; it should reach you within three working days.",
    "Please reset my password. I can no longer sign in to my account on the new phone.",
    'A refund was sent: {"order": 1042, "amount": 19.99, "currency": "EUR", "done": true}',
    "Thank you very much, that was quick! Is there anything else I can do for you?",
)


def _write_tokenizer(path: Path) -> PreTrainedTokenizerFast:
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    raw.train_from_iterator(CORPUS, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>", model_max_length=512
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(path)
    return tokenizer


def _config(architecture: Architecture, vocab_size: int, hidden_size: int, layers: int) -> PreTrainedConfig:
    config_class = {"llama": LlamaConfig, "qwen3": Qwen3Config, "gemma": GemmaConfig}[architecture]
    return config_class(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        intermediate_size=2 * hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=hidden_size // 64,
        num_key_value_heads=1,
        head_dim=64,
        max_position_embeddings=512,
        initializer_range=0.1,  # wide enough that logprobs differ from uniform
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        tie_word_embeddings=True,
        dtype="float32",
    )


def make_tiny_model(
    path: Path, architecture: Architecture = "llama", seed: int = 0, *, hidden_size: int = 128, layers: int = 2
) -> Path:
    """Write a random causal LM (head size 64, float32, by default ~0.4 M parameters) to `path` and return it.

    The tokenizer is a byte-level BPE of at most 512 entries with a chat template. Equal seeds give equal weights.
    """
    path.mkdir(parents=True, exist_ok=True)
    tokenizer = _write_tokenizer(path)
    config = _config(architecture, len(tokenizer), hidden_size, layers)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.save_pretrained(path)
    return path


def make_tiny_adapter(model_dir: Path, out: Path, seed: int, rank: int = 8, scale: float = 1.0) -> Path:
    """Write a random PEFT LoRA for the model in `model_dir` (all linear layers but lm_head) to `out` and return it.

    Both LoRA factors are drawn from N(0, 0.05 * sqrt(scale)), so the adapter changes the output; `scale=0` changes
    nothing.
    """
    base = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)
    linear = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    model = get_peft_model(base, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=linear, task_type="CAUSAL_LM"))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.copy_(noise * 0.05 * scale**0.5)
    model.save_pretrained(out)
    return out
