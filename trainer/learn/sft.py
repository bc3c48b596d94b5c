"""Supervised fine-tuning: imitate demonstrations.

Makes the demo's base from a fresh model (all weights), or an adapter on any base (LoRA). The loss is the mean negative
log-probability per trained token, normalised by the tokens of the whole optimiser step. Knows no text.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from schemas.errors import InvalidInput
from trainer.data import Demonstration, TokenPair
from trainer.learn.config import LoraSettings, SftConfig
from trainer.learn.optimise import clipped_step, schedule, set_rates
from trainer.learn.progress import Progress, silent
from trainer.models.adapter import save_role
from trainer.models.base import SharedBase
from trainer.models.batching import micro_batches
from trainer.models.files import whole_folder
from trainer.models.forward import answer_logits, log_softmax, pick_tokens

log = logging.getLogger(__name__)


def train_sft(
    model_dir: str | Path,
    demonstrations: Sequence[Demonstration],
    config: SftConfig,
    out: Path,
    *,
    lora: LoraSettings | None = None,
    public_name: str = "base",
    progress: Progress = silent,
) -> Path:
    """Fine-tune the model in `model_dir` (or of that name) on the demonstrations and write the result to `out`.

    Args:
        out: must not exist; becomes a Hugging Face model folder with its tokenizer (`method="full"`) or an adapter.
        lora: shape of the adapter for `method="lora"`.
        public_name: what the adapter calls its base.

    Returns:
        `out`. Equal inputs give equal bytes on one machine and thread count, unless `max_seconds` cuts the run.

    Raises:
        InvalidInput: no demonstrations, or one without tokens.
        Conflict: `out` exists.
    """
    if not demonstrations:
        raise InvalidInput("There are no demonstrations", field="demonstrations")
    pairs = [_pair(item, config.train_on_prompt) for item in demonstrations]
    with whole_folder(out) as work:
        if config.method == "full":
            model = AutoModelForCausalLM.from_pretrained(str(model_dir), dtype=torch.float32)
            _fit(model, list(model.parameters()), pairs, config, progress)
            model.save_pretrained(work)
            AutoTokenizer.from_pretrained(str(model_dir)).save_pretrained(work)
        else:
            base = SharedBase.load(model_dir, lora, public_name=public_name)
            base.open("policy", config.seed)
            with base.role("policy"):
                _fit(base.module, base.parameters("policy").values(), pairs, config, progress)
            save_role(base, "policy", work)
    return out


def _pair(item: Demonstration, train_on_prompt: bool) -> TokenPair:
    if train_on_prompt:
        ids = item.prompt_ids + item.answer_ids
        return ids[:1], ids[1:]
    return item.prompt_ids, item.answer_ids


def _fit(
    model: nn.Module,
    weights: Iterable[nn.Parameter],
    pairs: Sequence[TokenPair],
    config: SftConfig,
    progress: Progress,
) -> None:
    parameters = list(weights)
    optimiser = torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=config.weight_decay)
    generator = torch.Generator().manual_seed(config.seed)
    steps = list(_steps(pairs, config, generator))
    started = time.monotonic()
    model.train()
    done = 0.0
    for number, rows in enumerate(steps, start=1):
        if config.max_seconds is not None:
            done = (time.monotonic() - started) / config.max_seconds
            if done >= 1:
                break
        share = max(done, (number - 1) / len(steps))
        set_rates(optimiser, [config.learning_rate * schedule(share, config.warmup_fraction)])
        loss = _step(model, pairs, rows, config)
        norm = clipped_step(optimiser, config.max_grad_norm)
        progress("sft", number, len(steps), {"loss_nats_per_token": loss, "grad_norm": norm})
    model.eval()
    log.info("sft: %d of %d steps in %.1f s", number, len(steps), time.monotonic() - started)


def _step(model: nn.Module, pairs: Sequence[TokenPair], rows: Sequence[int], config: SftConfig) -> float:
    """Accumulate the gradient of one optimiser step; returns its loss in nats per token."""
    device = next(model.parameters()).device
    tokens = sum(len(pairs[row][1]) for row in rows)
    total = 0.0
    for batch in micro_batches(pairs, rows, config.micro_batch_tokens, device):
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=config.autocast == "bfloat16"):
            logits = answer_logits(model, batch)
        loss = -pick_tokens(log_softmax(logits, batch), batch).sum() / tokens
        torch.autograd.backward(loss)
        total += loss.item()
    return total


def _steps(pairs: Sequence[TokenPair], config: SftConfig, generator: torch.Generator) -> Iterator[list[int]]:
    """Rows of each optimiser step: every epoch a new shuffle, cut into steps of about `batch_tokens`.

    Lengths are mixed within a step on purpose: with similar lengths together a step is all of one style, and the
    network follows whichever came last. Padding is kept low inside the step, by `micro_batches`.
    """
    lengths = [len(prompt) + len(answer) for prompt, answer in pairs]
    for epoch in range(math.ceil(config.epochs)):
        order = torch.randperm(len(pairs), generator=generator).tolist()
        share = min(1.0, config.epochs - epoch)
        step: list[int] = []
        tokens = 0
        for row in order[: max(1, round(share * len(order)))]:
            if step and tokens + lengths[row] > config.batch_tokens:
                yield step
                step, tokens = [], 0
            step.append(row)
            tokens += lengths[row]
        yield step
