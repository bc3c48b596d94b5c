"""Packed batches through a Hugging Face model: its attention sees each segment alone, at the cost of what it holds.

The model's own layers run on one line of tokens without padding; the attention function registered here splits that
line by the `Segment`s that come with the call. Architectures differ in what they hand to their attention, so each
model is tried out once (`can_pack`): where packed logits differ from plain ones, its batches are padded instead.
Knows transformers' attention interface. Knows no adapters.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from trainer.models.batching import Segment, TokenBatch, pack_batch

log = logging.getLogger(__name__)

_NAME = "attune_segments"
"""Of the attention implementation, and of the argument that brings the segments to it."""
_PLAIN = "sdpa"
"""What it is built on; a model that runs on another one keeps it."""
_CLOSE = {torch.float32: 1e-4, torch.bfloat16: 3e-2, torch.float16: 3e-3}
"""How far packed logits may be from plain ones, as a share of the largest."""


def model_inputs(batch: TokenBatch) -> dict[str, Any]:
    """The arguments that a causal LM or its backbone takes for this batch."""
    inputs: dict[str, Any] = {"input_ids": batch.input_ids, "use_cache": False}
    if batch.segments:
        # A mask of four dimensions is taken as ready by all architectures, so that none is made; nothing reads it.
        ready = torch.zeros(1, 1, 1, 1, device=batch.input_ids.device)
        inputs |= {"position_ids": batch.places, "attention_mask": ready, _NAME: batch.segments}
    return inputs


def segment_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    attune_segments: tuple[Segment, ...] = (),
    sliding_window: int | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Scaled dot-product attention of a line [1, heads, T, size], segment by segment; without segments as ever."""
    if not attune_segments:
        whole: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, **options)
        return whole
    found = []
    for one in attune_segments:
        keys, values = key[:, :, one.start : one.end], value[:, :, one.start : one.end]
        if one.prompt_end > one.prompt_start:
            keys = torch.cat([key[:, :, one.prompt_start : one.prompt_end], keys], 2)
            values = torch.cat([value[:, :, one.prompt_start : one.prompt_end], values], 2)
        mask = _mask(one, sliding_window, query.device)
        found.append(sdpa_attention_forward(module, query[:, :, one.start : one.end], keys, values, mask, **options)[0])
    return torch.cat(found, 1), None


def _mask(one: Segment, window: int | None, device: torch.device) -> Tensor | None:
    """bool [own, prompt + own]: what each token of a segment may see; None where that is plainly causal."""
    prompt, own = one.prompt_end - one.prompt_start, one.end - one.start
    if prompt == 0 and (window is None or own <= window):
        return None
    seen, looking = (
        torch.arange(prompt + own, device=device),
        torch.arange(prompt, prompt + own, device=device)[:, None],
    )
    mask = seen <= looking
    return mask if window is None else mask & (seen > looking - window)


AttentionInterface.register(_NAME, segment_attention)
AttentionMaskInterface.register(_NAME, sdpa_mask)


@torch.no_grad()
def can_pack(model: PreTrainedModel) -> bool:
    """Let the model take packed batches, if it computes the same on them: tried out on two answers to one prompt."""
    if getattr(model.config, "_attn_implementation", None) != _PLAIN:
        return False
    prompt, answers = (1, 2, 3), ((4, 5, 6), (2, 1, 5, 3))
    device = next(model.parameters()).device
    batch = pack_batch([(prompt, answer) for answer in answers], range(2), device)
    lines = [torch.tensor([[*prompt, *answer]], device=device) for answer in answers]
    plain = torch.cat([model(input_ids=line, use_cache=False).logits[0, 2:-1] for line in lines]).float()
    try:
        model.set_attn_implementation(_NAME)
        packed = model(**model_inputs(batch), logits_to_keep=batch.positions[batch.mask]).logits[0].float()
    except (TypeError, ValueError, RuntimeError, NotImplementedError) as error:
        why = str(error)
    else:
        off = float((packed - plain).abs().max()) if packed.shape == plain.shape else float("inf")
        if off <= _CLOSE.get(model.dtype, 0.0) * float(plain.abs().max()):
            return True
        why = f"packed logits are {off:g} off"
    log.info("batches of %s are padded: %s", type(model).__name__, why)
    model.set_attn_implementation(_PLAIN)
    return False
