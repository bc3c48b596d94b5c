"""Direct preference optimisation (Rafailov et al. 2023): the policy is its own reward model.

Tensors are [N] pairs; logprobs are those of whole answers, nats (`sequences.answer_log_probs`).
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import logsigmoid


def implied_margins(chosen: Tensor, rejected: Tensor) -> Tensor:
    """How much more the policy than the reference prefers the chosen answer, nats. [N].

    Args: the log ratios log pi(y|x) / pi_ref(y|x) of the chosen and the rejected answer. Times beta, this is the margin
    of the rewards that the policy implies (equation 5).
    """
    return chosen - rejected


def dpo_losses(margins: Tensor, *, beta: float) -> Tensor:
    """-log sigmoid(beta * margin): Bradley-Terry on the implied rewards (equation 7). [N], with gradient."""
    return -logsigmoid(beta * margins)
