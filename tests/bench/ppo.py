"""An offline PPO update: ours on one shared base against a plain one with four copies of the model.

Both make the same optimiser step on the same ragged answers with the same LoRA recipe, scoring and reference logprobs
included, from a Llama of 110 M random weights; they take turns. First their reference logprobs are compared. `ratio`
is the median over the rounds of tokens per second, ours over theirs. The plain one takes one answer at a time, without
any padding: on a CPU its fastest way by far (`--plain-rows 4` pads four together). Ours runs with the default critic,
a head fitted on the frozen base's states; `ratio_lora_critic` is with a critic that has an adapter of its own, as
theirs. `memory_ratio` is accounted memory (weights, gradients, moments of the optimisers), ours over theirs. On a CPU,
seconds are of CPU time. The drift measurement of a run, which the plain one lacks, is left out.
Prints one JSON object as its last line.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from tests.bench.rivals.plain_ppo import Batch, PlainPPO, pad
from trainer.data import LoggedAnswer
from trainer.learn.config import LearnerConfig, LoraSettings, PpoConfig
from trainer.learn.optimise import clipped_step
from trainer.learn.ppo_run import CRITIC, PPOMethod
from trainer.learn.progress import silent
from trainer.learn.reward_model import RewardModel
from trainer.models.base import POLICY, SharedBase

VOCABULARY = 16_384
LORA = LoraSettings(rank=16, alpha=32)
RATE = 2e-5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--answers", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--plain-rows", type=int, default=1, help="rows of the plain one's micro-batches")
    options = parser.parse_args()
    device = torch.device(options.device)
    model = random_llama().to(device)
    weights = sum(parameter.numel() for parameter in model.parameters())
    answers = logged_answers(model, options.answers)
    plain = PlainPPO(model, rank=LORA.rank, alpha=LORA.alpha, rate=RATE)
    batches = plain_batches(answers, options.plain_rows, device)
    base = SharedBase(model, LORA)
    ours, with_lora = Ours(base, answers, "ridge"), Ours(base, answers, "lora")
    apart = compare_references(ours, plain, batches)
    ways: dict[str, Callable[[], Any]] = {
        "ours": ours.update,
        "ours_lora_critic": with_lora.update,
        "theirs": lambda: plain.update(batches),
    }
    tokens = sum(len(answer.prompt_ids) + len(answer.answer_ids) for answer in answers)
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(options.rounds):
        for name in list(ways) if number % 2 else reversed(ways):
            rates[name].append(tokens / timed(ways[name], device))
        words = ", ".join(f"{name} {values[-1]:.1f} tokens/s" for name, values in rates.items())
        print(f"round {number + 1} of {options.rounds}: {words}", file=sys.stderr, flush=True)
    speed = {name: statistics.median(values) for name, values in rates.items()}
    ratios = {
        name: sorted(mine / other for mine, other in zip(rates[name], rates["theirs"], strict=True))
        for name in ("ours", "ours_lora_critic")
    }
    peak = matmul_peak(device)
    # Per token and weight: 2 operations forwards, 2 backwards (adapters: no gradient of the base's weights). Ours:
    # reference, reward, policy there and back, and the critic where it has an adapter. Theirs: its old values as well.
    useful = {"ours": 2 + 2 + 4, "ours_lora_critic": 2 + 2 + 4 + 4, "theirs": 2 + 2 + 2 + 4 + 4}
    memory = {name: way.memory() for name, way in (("ours", ours), ("ours_lora_critic", with_lora))}
    memory["theirs"] = accounted((weight for copy in plain.models for weight in copy.parameters()), plain.trained)
    print(
        json.dumps(
            {
                "name": "ppo",
                "unit": "tokens/s of one update, scoring included",
                "ours": round(speed["ours"], 1),
                "theirs": round(speed["theirs"], 1),
                "ratio": round(statistics.median(ratios["ours"]), 3),
                "ratio_lora_critic": round(statistics.median(ratios["ours_lora_critic"]), 3),
                "spread": {name: [round(ratio, 3) for ratio in found] for name, found in ratios.items()},
                "memory_ratio": round(memory["ours"] / memory["theirs"], 3),
                "memory_mib": {name: round(value / 2**20) for name, value in memory.items()},
                "peak_gflops": round(peak / 1e9, 1),
                "peak_share": {name: round(useful[name] * weights * speed[name] / peak, 3) for name in speed},
                "weights": weights,
                "answers": len(answers),
                "tokens": tokens,
                "largest_reference_difference": apart,
                "device": str(device),
                "threads": torch.get_num_threads(),
            }
        )
    )


def random_llama() -> LlamaForCausalLM:
    """110 M weights."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=768,
        num_hidden_layers=12,
        num_attention_heads=12,
        num_key_value_heads=12,
        intermediate_size=2048,
        max_position_embeddings=512,
        tie_word_embeddings=False,
    )
    return LlamaForCausalLM(config).eval()


def logged_answers(model: LlamaForCausalLM, count: int) -> list[LoggedAnswer]:
    """Random tokens of random lengths (prompts 16 to 160, answers 8 to 128) with the model's own logprobs."""
    rng = random.Random(0)
    answers = []
    for row in range(count):
        prompt = tuple(rng.randrange(VOCABULARY) for _ in range(rng.randint(16, 160)))
        answer = tuple(rng.randrange(VOCABULARY) for _ in range(rng.randint(8, 128)))
        ids = torch.tensor([[*prompt, *answer]], device=model.device)
        with torch.no_grad():
            log_p = torch.log_softmax(model(input_ids=ids).logits[0, len(prompt) - 1 : -1].float(), -1)
        logprobs = tuple(log_p.gather(1, ids[0, len(prompt) :, None])[:, 0].tolist())
        answers.append(LoggedAnswer(f"s{row}", f"c{row}", 0, prompt, answer, logprobs, 1.0, 1.0, 0, 0, None, "u"))
    return answers


class Ours:
    """One optimiser step as a run makes it."""

    def __init__(self, base: SharedBase, answers: list[LoggedAnswer], critic: Literal["lora", "ridge"]) -> None:
        self.base = base
        base.open(POLICY, 0)
        base.open("reward", 1)
        reward = RewardModel(base, "reward", 0.0, 1.0, 5.0, 0.0, {}, "last", 1024)
        config = PpoConfig(minibatch_answers=len(answers), learning_rate=RATE, critic=critic)
        self.method = PPOMethod(base, answers, None, reward, LearnerConfig(), config, 0, None, silent)
        self.optimisers = [
            torch.optim.AdamW(base.parameters(role).values(), lr=rate, weight_decay=0.0)
            for role, rate in self.method.rates.items()
        ]

    def update(self) -> None:
        """Score, advantages, gradients, step."""
        self.method.prepare()
        self.method.begin_epoch(0)
        self.method.accumulate(self.method.plan.steps[0])
        for optimiser in self.optimisers:
            clipped_step(optimiser, 1.0)

    def memory(self) -> int:
        """Accounted bytes: the base, and the adapters of the roles in use, that of the reward model among them."""
        roles = [POLICY, "reward", *([CRITIC] if CRITIC in self.method.rates else [])]
        adapters = [weight for role in roles for weight in self.base.parameters(role).values()]
        frozen = (weight for name, weight in self.base.module.named_parameters() if ".lora_" not in name)
        return accounted(frozen, adapters)


def plain_batches(answers: list[LoggedAnswer], rows: int, device: torch.device) -> list[Batch]:
    """In the order of the log, as a data loader with a padding collator hands them out."""
    found = []
    for first in range(0, len(answers), rows):
        part = answers[first : first + rows]
        padded = pad([(item.prompt_ids, item.answer_ids, item.behaviour_logprobs) for item in part])
        found.append(Batch(*(getattr(padded, name).to(device) for name in ("ids", "attention", "answer", "behaviour"))))
    return found


@torch.no_grad()
def compare_references(ours: Ours, plain: PlainPPO, batches: Iterable[Batch]) -> float:
    """The largest difference between the two sides' reference logprobs, nats.

    Raises:
        AssertionError: they do not compute the same thing.
    """
    ours.method.prepare()
    found = ours.method.rollouts
    seen = torch.cat([plain.log_probs(plain.reference, batch)[batch.answer].cpu() for batch in batches])
    apart = float((seen - found.reference[found.mask]).abs().max())
    assert apart < 1e-3, apart
    return apart


def timed(update: Callable[[], Any], device: torch.device) -> float:
    """Seconds: on a CPU, which other work may share, of CPU time divided by the threads; else of the clock."""
    if device.type == "cpu":
        began = time.process_time()
        update()
        return (time.process_time() - began) / torch.get_num_threads()
    began = time.monotonic()
    update()
    torch.cuda.synchronize()
    return time.monotonic() - began


def accounted(weights: Iterable[nn.Parameter], trained: Sequence[nn.Parameter]) -> int:
    """Bytes of all weights, and of gradient and both moments of those that are trained.

    Of ours the reward model's adapter counts as trained too, to our disadvantage: it was, before the policy.
    """
    every = {id(weight): weight for weight in (*weights, *trained)}.values()
    return sum(w.numel() * w.element_size() for w in every) + 3 * sum(w.numel() * w.element_size() for w in trained)


def matmul_peak(device: torch.device) -> float:
    """Floating-point operations per second of large float32 matrix products, the best of some."""
    size = 2048
    a, b = torch.randn(size, size, device=device), torch.randn(size, size, device=device)
    return max(2 * size**3 / timed(lambda: a @ b, device) for _ in range(5))


if __name__ == "__main__":
    main()
