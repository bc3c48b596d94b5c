"""Our losses against those of TRL's trainers, whose loss methods are called on a stand-in with the numbers given.

TRL has no free functions for them: the trainer is a mock whose accelerator gathers nothing, the model one that returns
the logprobs or scores of the test. What is compared is TRL's own arithmetic.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch
from torch import Tensor
from trl import DPOTrainer, KTOTrainer, RewardTrainer

from trainer.algorithms.dpo import dpo_losses, implied_margins
from trainer.algorithms.kto import kto_losses, reference_point
from trainer.algorithms.preference import pair_losses
from trainer.algorithms.sequences import answer_log_probs

SEEDS = range(3)
ROWS, WIDTH, BETA = 4, 6, 0.3


def _numbers(seed: int, rows: int) -> tuple[Tensor, Tensor, Tensor]:
    """Token logprobs [rows, WIDTH] under policy and reference, and the mask of the answers."""
    generator = torch.Generator().manual_seed(seed)
    policy = -3 * torch.rand(rows, WIDTH, generator=generator)
    reference = policy + 0.8 * torch.randn(rows, WIDTH, generator=generator)
    lengths = torch.randint(1, WIDTH + 1, (rows, 1), generator=generator)
    return policy, reference, torch.arange(WIDTH)[None] < lengths


def _outputs(log_probs: Tensor, mask: Tensor) -> SimpleNamespace:
    """What TRL's patched models return; only the logprobs are looked at here."""
    zeros = torch.zeros(mask.shape)
    return SimpleNamespace(log_probs=torch.where(mask, log_probs, 0.0), entropy=zeros, mean_logits=zeros, is_top1=mask)


def _trainer(**attributes: Any) -> MagicMock:
    trainer = MagicMock(beta=BETA, aux_loss_enabled=False, _tp_size=1, _total_train_tokens=0, **attributes)
    trainer.accelerator.device = torch.device("cpu")
    trainer.accelerator.gather_for_metrics = trainer.accelerator.gather = lambda value: value
    return trainer


def _inputs(mask: Tensor) -> dict[str, Tensor]:
    """One prompt token, then the answers."""
    whole = torch.cat([torch.zeros(mask.shape[0], 1, dtype=torch.bool), mask], 1).long()
    return {"input_ids": whole, "attention_mask": torch.ones_like(whole), "completion_mask": whole}


@pytest.mark.parametrize("seed", SEEDS)
def test_dpo(seed: int) -> None:
    policy, reference, mask = _numbers(seed, 2 * ROWS)  # TRL: the chosen ones first, then the rejected ones
    now, before = answer_log_probs(policy, mask), answer_log_probs(reference, mask)
    trainer = _trainer(
        ld_alpha=None,
        precompute_ref_logps=True,
        f_divergence_type="reverse_kl",
        loss_types=["sigmoid"],
        loss_weights=[1.0],
        use_weighting=False,
    )
    inputs = _inputs(mask) | {"ref_chosen_logps": before[:ROWS], "ref_rejected_logps": before[ROWS:]}
    theirs = DPOTrainer._compute_loss(trainer, lambda **_: _outputs(policy, mask), inputs, False)
    ratios = now - before
    ours = dpo_losses(implied_margins(ratios[:ROWS], ratios[ROWS:]), beta=BETA).mean()
    assert ours.item() == pytest.approx(float(theirs), abs=1e-4)


@pytest.mark.parametrize("seed", SEEDS)
def test_kto_and_its_reference_point(seed: int) -> None:
    policy, reference, mask = _numbers(seed, ROWS)
    crossed, crossed_reference, crossed_mask = _numbers(seed + 10, ROWS)
    liked = torch.tensor([True, False, True, False])
    ratios = answer_log_probs(policy, mask) - answer_log_probs(reference, mask)
    mismatched = answer_log_probs(crossed, crossed_mask) - answer_log_probs(crossed_reference, crossed_mask)
    trainer = _trainer(
        loss_type="kto", calculate_KL=True, precompute_ref_logps=True, desirable_weight=1.0, undesirable_weight=1.0
    )
    trainer._compute_kl_logps.return_value = answer_log_probs(crossed, crossed_mask)
    inputs = _inputs(mask) | {
        "label": liked,
        "ref_logps": answer_log_probs(reference, mask),
        "ref_KL_logps": answer_log_probs(crossed_reference, crossed_mask),
    }
    theirs = KTOTrainer._compute_loss(trainer, lambda **_: _outputs(policy, mask), inputs, False)
    z0 = reference_point(mismatched)
    assert kto_losses(ratios, liked, z0, beta=BETA).mean().item() == pytest.approx(float(theirs), abs=1e-4)


@pytest.mark.parametrize("seed", SEEDS)
def test_bradley_terry(seed: int) -> None:
    scores = 2 * torch.randn(2 * ROWS, generator=torch.Generator().manual_seed(seed))
    trainer = _trainer(args=SimpleNamespace(center_rewards_coefficient=None))
    outputs = SimpleNamespace(logits=scores[:, None])
    theirs = RewardTrainer.compute_loss(trainer, lambda **_: outputs, {"attention_mask": torch.ones(1)})
    margins = scores[:ROWS] - scores[ROWS:]
    ours = pair_losses(margins, torch.zeros(ROWS, dtype=torch.bool), torch.zeros(())).mean()
    assert ours.item() == pytest.approx(float(theirs), abs=1e-4)
