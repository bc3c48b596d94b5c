"""Training a reward model: ours against TRL's RewardTrainer, on the same ragged pairs, batch and LoRA recipe.

A Llama of 110 M random weights; float32; one epoch of optimiser steps of 8 pairs, both from the same weights. First
both make one step on the same batch: losses and weights afterwards must agree. Then they take turns; `ratio` is the
median over the rounds of tokens per second, ours over theirs, counted in real tokens (each prompt twice a pair, as TRL
computes it). Seconds are of CPU time. What ours does beside TRL's training (the probe that a fresh model starts from,
standardising the scores) is measured apart: `start_seconds`. Prints one JSON object as its last line.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from tests.bench.ppo import LORA, VOCABULARY, matmul_peak, random_llama
from tests.bench.rivals.trl_reward import TRLReward
from trainer.data import PreferencePair
from trainer.learn.config import RewardConfig
from trainer.learn.reward import train_reward_model
from trainer.learn.reward_model import RewardModel
from trainer.models.base import SharedBase
from trainer.models.files import read_adapter, read_tensors

BATCH, RATE, ROLE = 8, 1e-4, "reward"
CONFIG = RewardConfig(
    batch_sets=BATCH,
    learning_rate=RATE,
    head_learning_rate=RATE,  # TRL has one rate
    warmup_fraction=0.0,
    centring_coefficient=0.0,  # TRL's default
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=2 * BATCH, help=f"a multiple of {BATCH}")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--trl-rows", type=int, default=1, help="pairs in one of TRL's micro-batches")
    options = parser.parse_args()
    model = random_llama()
    theirs = TRLReward(
        model, rank=LORA.rank, alpha=LORA.alpha, rate=RATE, rows=options.trl_rows, batch=BATCH
    )  # before ours: a copy of its own
    base = SharedBase(model, LORA)
    pairs = ragged_pairs(options.pairs)
    tokens = sum(2 * len(pair.prompt_ids) + len(pair.chosen_ids) + len(pair.rejected_ids) for pair in pairs)
    with tempfile.TemporaryDirectory() as folder:
        start = Path(folder) / "start"
        began = time.process_time()
        fresh = train_reward_model(base, pairs, (), CONFIG.model_copy(update={"epochs": 0}), 0)
        start_seconds = time.process_time() - began
        fresh.save(start)
        apart = compare(base, theirs, pairs[:BATCH], start)
        rates: dict[str, list[float]] = {"ours": [], "theirs": []}
        for number in range(options.rounds):
            ways = {"ours": lambda: train(base, pairs, start)[0], "theirs": lambda: theirs.train(pairs)[0]}
            for name in ("ours", "theirs") if number % 2 else ("theirs", "ours"):
                rates[name].append(tokens / ways[name]())
            words = ", ".join(f"{name} {values[-1]:.1f} tokens/s" for name, values in rates.items())
            print(f"round {number + 1} of {options.rounds}: {words}", file=sys.stderr, flush=True)
    ratios = sorted(mine / other for mine, other in zip(rates["ours"], rates["theirs"], strict=True))
    peak = matmul_peak(torch.device("cpu"))
    weights = sum(w.numel() for name, w in model.named_parameters() if ".layers." in name and ".base_layer." in name)
    speed = {name: statistics.median(values) for name, values in rates.items()}
    result = {
        "name": "reward-model",
        "unit": "tokens/s of one epoch",
        "ours": round(speed["ours"], 1),
        "theirs": round(speed["theirs"], 1),
        "ratio": round(statistics.median(ratios), 3),
        "spread": {"ratio": [round(ratio, 3) for ratio in ratios]},
        "start_seconds": round(start_seconds, 1),
        "epoch_seconds": {name: round(tokens / value, 1) for name, value in speed.items()},
        "peak_gflops": round(peak / 1e9, 1),
        # 2 operations per weight and token there and 2 back, as if every token were computed: a shared prompt is not.
        "peak_share": {name: round(4 * weights * value / peak, 3) for name, value in speed.items()},
        "largest_differences": apart,
        "pairs": len(pairs),
        "tokens": tokens,
        "threads": torch.get_num_threads(),
    }
    print(json.dumps(result))


def ragged_pairs(count: int) -> list[PreferencePair]:
    """Random tokens of random lengths: prompts of 16 to 160, each with two answers of 8 to 128."""
    rng = random.Random(0)

    def some(least: int, most: int) -> tuple[int, ...]:
        return tuple(rng.randrange(1, VOCABULARY) for _ in range(rng.randint(least, most)))

    return [
        PreferencePair(some(16, 160), some(8, 128), some(8, 128), False, 1.0, f"u{row}", "comparison", f"{row}")
        for row in range(count)
    ]


def train(base: SharedBase, pairs: Sequence[PreferencePair], start: Path) -> tuple[float, list[float]]:
    """One epoch of ours from the weights in `start`: processor seconds of the whole call, and each step's loss."""
    losses: list[float] = []

    def tell(stage: str, _done: int, _total: int, metrics: Any) -> None:
        if stage == "reward_model":
            losses.append(metrics["loss"])

    reference = [(pairs[0].prompt_ids, pairs[0].chosen_ids)]  # standardising is not what is compared
    began = time.process_time()
    train_reward_model(base, pairs, (), CONFIG, 0, reference=reference, start_from=start, progress=tell)
    return time.process_time() - began, losses


def compare(base: SharedBase, theirs: TRLReward, batch: Sequence[PreferencePair], start: Path) -> dict[str, float]:
    """One step of each on one batch from the same weights: how far loss and weights are apart.

    Raises:
        AssertionError: they do not compute the same thing.
    """
    theirs.start_from(read_adapter(start)[0], read_tensors(start / "head.safetensors")["head.weight"])
    _, (loss,) = train(base, batch, start)
    _, (their_loss,) = theirs.train(batch, told=True)
    trained = base.snapshot(ROLE)
    with torch.no_grad():
        seen = {"loss": abs(loss - their_loss), "head": float((trained["head.weight"] - theirs.head).abs().max())}
        own = {name.replace(".default.", "."): w for name, w in theirs.model.named_parameters() if ".lora_" in name}
        assert own.keys() == {name for name in trained if ".lora_" in name}, sorted(own)[:2]
        moved = [float((w - trained[name]).abs().max()) for name, w in own.items()]
        seen["adapter"] = max(moved)
    assert seen["loss"] < 1e-4, seen
    # Adam's first step moves each weight by the rate or its opposite, whatever the gradient's size: tiny gradients may
    # round to either side, so of a weight it is the rate that bounds the difference, and the mean that must be small.
    assert statistics.mean(moved) < 2 * RATE, seen
    RewardModel.load(base, start, role=ROLE)
    return {name: float(f"{value:.2g}") for name, value in seen.items()}


if __name__ == "__main__":
    main()
