"""From logprobs of tokens to those of whole answers."""

from __future__ import annotations

import torch
from torch import Tensor


def answer_log_probs(log_p: Tensor, mask: Tensor) -> Tensor:
    """log pi(y|x), nats: the sum of [B, A] token logprobs under the bool `mask` of the same shape. [B].

    What stands in masked positions, NaN included, changes neither the sum nor a gradient.
    """
    return torch.where(mask, log_p, 0.0).sum(1)
