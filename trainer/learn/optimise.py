"""What the training loops share: learning-rate schedule, rates per group, optimiser state as plain tensors.

Knows torch optimisers. Knows nothing of losses.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

_MOMENTS = ("step", "exp_avg", "exp_avg_sq")


def schedule(share: float, warmup: float) -> float:
    """Factor on the learning rate after `share` (0 to 1) of the run: linear warm-up, then cosine from 1 to 0.1."""
    if share < warmup:
        return (share + 1e-3) / (warmup + 1e-3)
    return 0.1 + 0.45 * (1 + math.cos(math.pi * (share - warmup) / (1 - warmup)))


def set_rates(optimiser: torch.optim.Optimizer, rates: Iterable[float]) -> None:
    """Set the learning rate of each parameter group, in order."""
    for group, rate in zip(optimiser.param_groups, rates, strict=True):
        group["lr"] = rate


def optimiser_tensors(optimiser: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """Adam's moments and step counts by parameter name, for a checkpoint; empty before the first step."""
    return {
        f"{name}/{moment}": optimiser.state[parameter][moment].detach().clone()
        for name, parameter in parameters.items()
        if parameter in optimiser.state
        for moment in _MOMENTS
    }


def restore_optimiser(
    optimiser: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter], tensors: Mapping[str, Tensor]
) -> None:
    """Undo `optimiser_tensors` on a fresh optimiser over the same parameters."""
    for name, parameter in parameters.items():
        if f"{name}/step" in tensors:
            optimiser.state[parameter] = {
                moment: tensors[f"{name}/{moment}"].clone().to("cpu" if moment == "step" else parameter.device)
                for moment in _MOMENTS
            }


def clipped_step(optimiser: torch.optim.Optimizer, max_norm: float) -> float:
    """Clip the gradients of all groups together to `max_norm` (L2), step, and clear them.

    Returns:
        The norm before clipping. Where it is not finite no step is made, so that weights can't be poisoned.
    """
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    norm = float(torch.nn.utils.clip_grad_norm_(parameters, max_norm))
    if math.isfinite(norm):
        optimiser.step()
    optimiser.zero_grad(set_to_none=True)
    return norm
