"""Sampling answers from the learner's own model, for gates, suites and probes; users are answered by the server.

Knows token ids, stop tokens and seeds. Knows nothing of what the answers are for.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jinja2 import TemplateError
from transformers import AutoConfig, AutoTokenizer, GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from schemas.errors import ConfigError, InvalidInput
from schemas.imported import ChatMessage
from trainer.data import TokenPair
from trainer.models.base import SharedBase
from trainer.models.batching import PAD_ID

_WHOLE_DISTRIBUTION: Mapping[str, Any] = {
    "temperature": 1.0,
    "top_k": 0,
    "top_p": 1.0,
    "min_p": 0.0,
    "typical_p": 1.0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
}


def load_tokenizer(model: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer in a model folder or of that name. Raises ConfigError where it has no chat template."""
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(str(model))
    if not tokenizer.chat_template:
        raise ConfigError(f"the tokenizer of {model} has no chat template", field="model")
    return tokenizer


def render_chat(tokenizer: PreTrainedTokenizerBase, messages: Sequence[dict[str, str]]) -> tuple[int, ...]:
    """Token ids of a chat up to where the answer begins, as the server's chat template makes them."""
    ids = tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, tokenize=True, return_dict=False)
    return tuple(ids)


def end_tokens(folder: Path, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """The ids that end an answer, as vLLM reads them: those of generation_config.json, else the tokenizer's.

    Raises:
        ConfigError: neither names one.
    """
    found: object = None
    if (folder / "generation_config.json").is_file():
        found = GenerationConfig.from_pretrained(str(folder)).eos_token_id
    if found is None:
        found = tokenizer.eos_token_id
    if found is None:
        raise ConfigError(f"the model in {folder} has no end-of-sequence token", field="model")
    return tuple(found) if isinstance(found, list | tuple) else (int(str(found)),)


def answer_encoder(
    folder: Path, tokenizer: PreTrainedTokenizerBase, longest: int
) -> Callable[[Sequence[int], str], tuple[int, ...]]:
    """Prompt's token ids and the text of an answer to it -> the answer's token ids, the end token included.

    What looks like a control token in the text is text: a person wrote it, no model ended or began anything there.

    Args:
        longest: tokens of both together at most; the model's own context may allow fewer.

    Raises:
        ConfigError: as `end_tokens`. What is returned raises InvalidInput for a text that is too long.
    """
    end = end_tokens(folder, tokenizer)[0]
    context = getattr(AutoConfig.from_pretrained(str(folder)).get_text_config(), "max_position_embeddings", None)
    limit = min(longest, context or longest)

    def encode(prompt: Sequence[int], text: str) -> tuple[int, ...]:
        ids = (*tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True), end)
        if len(prompt) + len(ids) > limit:
            raise InvalidInput(f"{len(prompt) + len(ids)} tokens of prompt and answer are more than {limit}")
        return ids

    return encode


def chat_encoder(
    folder: Path, tokenizer: PreTrainedTokenizerBase, longest: int
) -> Callable[[Sequence[ChatMessage], str], TokenPair]:
    """Conversation and answer -> their token ids; arguments and errors as of `answer_encoder`.

    The conversation is read as the server reads one, control tokens written out in it included: prompts are compared
    with what the engine saw.
    """
    encode = answer_encoder(folder, tokenizer, longest)

    def encode_chat(messages: Sequence[ChatMessage], answer: str) -> TokenPair:
        try:
            prompt = render_chat(tokenizer, [message.model_dump() for message in messages])
        except TemplateError as error:
            raise InvalidInput(f"the chat template refuses the conversation: {error}", field="messages") from error
        return prompt, encode(prompt, answer)

    return encode_chat


def stop_tokens(base: SharedBase) -> tuple[int, ...]:
    """The ids that end an answer, as the loaded model's generation configuration names them."""
    config = _causal_lm(base).generation_config
    ends = None if config is None else config.eos_token_id
    if ends is None:
        raise ConfigError("the model has no end-of-sequence token", field="model")
    return tuple(int(end) for end in (ends if isinstance(ends, list | tuple) else (ends,)))


def context_length(base: SharedBase) -> int:
    """Tokens that the loaded model was made to read at once."""
    return int(getattr(_causal_lm(base).config.get_text_config(), "max_position_embeddings", None) or sys.maxsize)


def _causal_lm(base: SharedBase) -> PreTrainedModel:
    model = base.module
    assert isinstance(model, PreTrainedModel), "SharedBase holds a causal LM"  # noqa: S101
    return model


def sample(
    base: SharedBase,
    role: str | None,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    greedy: bool,
    seed: int,
    batch_size: int = 32,
    temperature: float = 1.0,
    top_p: float = 1.0,
    top_k: int = 0,
) -> list[tuple[int, ...]]:
    """One answer for each prompt: sampled (by default from the whole distribution at temperature 1), or greedily.

    Args:
        role: who answers; None is the frozen base.
        prompts: token ids, not empty.
        max_new_tokens: an answer that has no stop token by then is cut there.
        temperature, top_p, top_k: of sampling; 1 and 0 are off.
        seed: equal seeds give equal answers on one machine and thread count. The global generator is left as it was.

    Returns:
        Sampled token ids, the stop token included where it was sampled; in the order of `prompts`.
    """
    model = _causal_lm(base)
    ends = stop_tokens(base)
    config = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=not greedy,
        # Everything that a model's own generation_config.json could add is switched off by name.
        **({} if greedy else {**_WHOLE_DISTRIBUTION, "temperature": temperature, "top_p": top_p, "top_k": top_k}),
        no_repeat_ngram_size=0,
        repetition_penalty=1.0,
        num_beams=1,
        eos_token_id=list(ends),
        pad_token_id=PAD_ID,
    )
    answers: dict[int, tuple[int, ...]] = {}
    # Prompts of like length side by side: less padding.
    order = sorted(range(len(prompts)), key=lambda row: (len(prompts[row]), row))
    devices = [base.device] if base.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), torch.no_grad(), base.role(role):
        torch.manual_seed(seed)
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            width = max(len(prompts[row]) for row in rows)
            ids = torch.tensor([[PAD_ID] * (width - len(prompts[row])) + list(prompts[row]) for row in rows])
            mask = torch.tensor([[0] * (width - len(prompts[row])) + [1] * len(prompts[row]) for row in rows])
            output = model.generate(
                input_ids=ids.to(base.device), attention_mask=mask.to(base.device), generation_config=config
            )
            for row, tokens in zip(rows, output[:, width:].tolist(), strict=True):
                answers[row] = _until_end(tokens, ends)
    return [answers[row] for row in range(len(prompts))]


def _until_end(tokens: Sequence[int], ends: Sequence[int]) -> tuple[int, ...]:
    for place, token in enumerate(tokens):
        if token in ends:
            return tuple(tokens[: place + 1])
    return tuple(tokens)
