"""Offline PPO: the objective, its filters, its metrics and when to stop.

Departures from Schulman et al. 2017: the denominator of the ratio is the logged probability of each token ("bypass":
the sampling policy is the anchor, whichever version it was), tokens and whole answers that drifted too far are left
out, and normalisation is by the token count of the whole optimiser step.

All tensors are [B, A] (answers by token, right-padded); `mask` is bool. What stands in masked positions, NaN included,
changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.algorithms.kl import k1, k3, per_sequence, per_token


@dataclass(frozen=True)
class Limits:
    """Bounds of the objective; ratios are dimensionless, k3 in nats per token."""

    clip_low: float = 0.8
    """Schulman et al. 2017, epsilon 0.2."""
    clip_high: float = 1.2
    dual_clip: float = 3.0
    """Ye et al. 2020, equation 5: floor of the objective at dual_clip * A for negative A."""
    weight_cap: float = 2.0
    """Cut of pi_prox / pi_behaviour (decoupled anchor only)."""
    ratio_low: float = 0.5
    """Tokens whose pi / pi_behaviour lies outside [ratio_low, ratio_high] are left out."""
    ratio_high: float = 2.0
    sequence_k3: float = 0.1
    """Answers whose mean k3 is above are left out."""


@dataclass(frozen=True)
class StopLimits:
    """When a batch has drifted so far from its data that learning on it must end."""

    mean_abs_log_ratio: float = 0.1
    """Nats per token."""
    clip_fraction: float = 0.3
    effective_sample_size: float = 0.3
    """Share of the tokens."""


def keep_mask(log_p: Tensor, behaviour: Tensor, mask: Tensor, limits: Limits) -> Tensor:
    """Tokens that train: ratio within bounds, in an answer whose mean k3 is within bounds. bool [B, A]."""
    log_ratio = torch.where(mask, log_p - behaviour, 0.0).detach()
    drift = k3(torch.zeros_like(log_ratio), log_ratio).sum(1) / mask.sum(1).clamp(min=1)
    ratio = log_ratio.exp()
    inside = (ratio >= limits.ratio_low) & (ratio <= limits.ratio_high)
    return mask & inside & (drift <= limits.sequence_k3)[:, None]


def policy_loss(
    log_p: Tensor,
    behaviour: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    tokens: int,
    limits: Limits,
    proximal: Tensor | None = None,
) -> Tensor:
    """-(1/tokens) * sum of m w max(min(rho A, clip(rho) A), dual A if A < 0). Scalar with gradient to `log_p`.

    Args:
        log_p: logprobs of the sampled tokens under the policy that trains.
        behaviour: logged logprobs of the same tokens.
        advantages: whitened.
        tokens: answer tokens of the whole optimiser step, left-out ones too: micro-batches add up, and a token that is
            left out makes no other token heavier.
        proximal: logprobs under a frozen anchor (decoupled PPO, Hilton et al. 2022); None anchors at `behaviour`.
    """
    keep = keep_mask(log_p, behaviour, mask, limits)
    anchor = behaviour if proximal is None else proximal
    ratio = torch.where(keep, log_p - anchor, 0.0).exp()
    weight = torch.where(keep, anchor - behaviour, 0.0).detach().exp().clamp(max=limits.weight_cap)
    gain = torch.where(keep, advantages, 0.0)
    objective = torch.minimum(ratio * gain, ratio.clamp(limits.clip_low, limits.clip_high) * gain)
    objective = torch.where(gain < 0, torch.maximum(objective, limits.dual_clip * gain), objective)
    return -torch.where(keep, weight * objective, 0.0).sum() / tokens


def value_loss(
    values: Tensor, old_values: Tensor, returns: Tensor, mask: Tensor, *, tokens: int, clip: float = 0.2
) -> Tensor:
    """(1/2 tokens) * sum of max((V - R)^2, (clip(V, V_old +- clip) - R)^2). Scalar with gradient to `values`.

    Source: Schulman et al. 2017 as in lm-human-preferences.
    """
    values = torch.where(mask, values, 0.0)
    old_values = torch.where(mask, old_values, 0.0)
    returns = torch.where(mask, returns, 0.0)
    clipped = old_values + (values - old_values).clamp(-clip, clip)
    worse = torch.maximum((values - returns) ** 2, (clipped - returns) ** 2)
    return 0.5 * torch.where(mask, worse, 0.0).sum() / tokens


def update_metrics(
    log_p: Tensor, behaviour: Tensor, advantages: Tensor, mask: Tensor, versions: Tensor, limits: Limits
) -> dict[str, float]:
    """How far the policy is from the data of one optimiser step.

    Args:
        versions: int64 [B], the policy version that sampled each answer.

    Returns:
        approx_kl_k1/k3 from behaviour to the policy (nats per token and per sequence); clip fractions (share of kept
        tokens whose gradient the clip cut, above and below); raw ratio mean, p99, max; mask_fraction (share of tokens
        left out); effective_sample_size of the token ratios as the objective uses them (what is left out weighs 0), of
        the raw ones, and of whole answers (share of all); mean_abs_log_ratio
        (nats per token); k3_per_token by behaviour version.
    """
    keep = keep_mask(log_p, behaviour, mask, limits)
    log_p, behaviour = log_p.detach(), behaviour.detach()
    drift1, drift3 = k1(behaviour, log_p), k3(behaviour, log_p)
    log_ratio = torch.where(mask, log_p - behaviour, 0.0)
    ratios = log_ratio[mask].double().exp()
    ratio = log_ratio.exp()
    kept = keep.sum().clamp(min=1)
    high = keep & (ratio > limits.clip_high) & (advantages > 0)
    low = keep & (ratio < limits.clip_low) & (advantages < 0)
    metrics = {
        "approx_kl_k1_per_token": per_token(drift1, mask),
        "approx_kl_k1_per_sequence": per_sequence(drift1, mask),
        "approx_kl_k3_per_token": per_token(drift3, mask),
        "approx_kl_k3_per_sequence": per_sequence(drift3, mask),
        "mean_abs_log_ratio": per_token(log_ratio.abs(), mask),
        "clip_fraction_high": high.sum() / kept,
        "clip_fraction_low": low.sum() / kept,
        "ratio_mean": ratios.mean(),
        "ratio_p99": torch.quantile(ratios, 0.99) if ratios.numel() <= 2**24 else ratios.max(),
        "ratio_max": ratios.max(),
        "mask_fraction": 1 - keep.sum() / mask.sum(),
        "effective_sample_size": effective_sample_size(torch.where(keep, ratio, 0.0)[mask].double()),
        "effective_sample_size_raw": effective_sample_size(ratios),
        "effective_sample_size_sequences": effective_sample_size(log_ratio.double().sum(1).exp()),
    }
    for version in sorted(set(versions.tolist())):
        rows = versions == version
        metrics[f"k3_per_token_v{version}"] = per_token(drift3[rows], mask[rows])
    return {name: float(value) for name, value in metrics.items()}


def effective_sample_size(weights: Tensor) -> Tensor:
    """(sum w)^2 / (n sum w^2), in (0, 1]: Kish's effective sample size as a share of n; 0 where all weigh 0."""
    square = (weights**2).sum()
    return torch.where(square > 0, weights.sum() ** 2 / (weights.numel() * square), 0.0)


def value_metrics(values: Tensor, old_values: Tensor, returns: Tensor, mask: Tensor, clip: float) -> dict[str, float]:
    """Over the mask: explained_variance, 1 - Var(R - V) / Var(R) (0 where R is constant), and value_clip_fraction."""
    seen, old, target = values.detach()[mask].double(), old_values[mask].double(), returns[mask].double()
    spread = float(target.var(unbiased=False))
    explained = 1 - float((target - seen).var(unbiased=False)) / spread if spread > 0 else 0.0
    return {
        "explained_variance": explained,
        "value_clip_fraction": float(((seen - old).abs() > clip).double().mean()),
    }


def stop_reason(metrics: Mapping[str, float], limits: StopLimits) -> str | None:
    """Why learning on this batch must end before its next step, in a few words, or None."""
    for name, value in sorted(metrics.items()):
        if not math.isfinite(value):
            return f"non-finite {name}"
    if metrics["mean_abs_log_ratio"] > limits.mean_abs_log_ratio:
        return "mean_abs_log_ratio"
    if metrics["clip_fraction_high"] + metrics["clip_fraction_low"] > limits.clip_fraction:
        return "clip_fraction"
    if metrics["effective_sample_size"] < limits.effective_sample_size:
        return "effective_sample_size"
    return None
