"""PPO on logged answers as it is usually written: four models in memory, padded batches, logits of every position.

The rival of `tests.bench.ppo`. Same data, same objective (clipped ratio against the logged logprob, GAE, value clip),
same LoRA recipe on policy and critic; reference and reward model are copies of their own, as in the trainers that
InstructGPT's description led to. Nothing here imports the trainer.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import LlamaForCausalLM


@dataclass(frozen=True)
class Batch:
    """Right-padded rows: ids, attention mask, and which positions (shifted) predict an answer token, all [B, T]."""

    ids: Tensor
    attention: Tensor
    answer: Tensor
    behaviour: Tensor


def pad(rows: Sequence[tuple[Sequence[int], Sequence[int], Sequence[float]]]) -> Batch:
    """(prompt, answer, logprobs) rows, padded to the longest."""
    width = max(len(prompt) + len(answer) for prompt, answer, _ in rows)
    ids, attention = torch.zeros(len(rows), width, dtype=torch.int64), torch.zeros(len(rows), width, dtype=torch.int64)
    answers, behaviour = torch.zeros(len(rows), width - 1, dtype=torch.bool), torch.zeros(len(rows), width - 1)
    for row, (prompt, answer, logprobs) in enumerate(rows):
        end = len(prompt) + len(answer)
        ids[row, :end] = torch.tensor([*prompt, *answer])
        attention[row, :end] = 1
        answers[row, len(prompt) - 1 : end - 1] = True
        behaviour[row, len(prompt) - 1 : end - 1] = torch.tensor(logprobs)
    return Batch(ids, attention, answers, behaviour)


class Scorer(nn.Module):
    """A copy of the model without lm_head, with a scalar head."""

    def __init__(self, model: LlamaForCausalLM) -> None:
        super().__init__()
        self.backbone = copy.deepcopy(model.model)
        self.head = nn.Linear(model.config.hidden_size, 1)

    def forward(self, batch: Batch) -> Tensor:
        states = self.backbone(input_ids=batch.ids, attention_mask=batch.attention, use_cache=False)[0]
        return self.head(states).squeeze(-1)


class PlainPPO:
    """Policy, reference, reward model and critic, each whole."""

    def __init__(self, model: LlamaForCausalLM, *, rank: int, alpha: int, rate: float) -> None:
        lora = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=0.0, target_modules="all-linear")
        self.reference = copy.deepcopy(model).requires_grad_(False).eval()
        self.reward = Scorer(model).requires_grad_(False).eval()
        self.critic = Scorer(model)
        self.critic.backbone = get_peft_model(self.critic.backbone, lora)
        self.policy = get_peft_model(copy.deepcopy(model), lora)
        self.models: tuple[nn.Module, ...] = (self.policy, self.reference, self.reward, self.critic)
        self.trained = [p for whole in (self.policy, self.critic) for p in whole.parameters() if p.requires_grad]
        self.optimiser = torch.optim.AdamW(self.trained, lr=rate, weight_decay=0.0)

    @staticmethod
    def log_probs(model: nn.Module, batch: Batch) -> Tensor:
        """Of every next token, [B, T - 1]."""
        logits = model(input_ids=batch.ids, attention_mask=batch.attention, use_cache=False).logits
        log_p = torch.log_softmax(logits[:, :-1].float(), dim=-1)
        return log_p.gather(-1, batch.ids[:, 1:, None]).squeeze(-1)

    def update(self, batches: Sequence[Batch], *, beta: float = 0.05) -> None:
        """One optimiser step on all batches: score, advantages, gradients, step."""
        prepared = []
        with torch.no_grad():
            for batch in batches:
                reference = self.log_probs(self.reference, batch)
                values = self.critic(batch)[:, :-1] * batch.answer
                last = batch.attention.sum(1) - 1
                scores = self.reward(batch)[torch.arange(len(last)), last]
                rewards = -beta * (batch.behaviour - reference) * batch.answer
                rewards[torch.arange(len(last)), last - 1] += scores
                prepared.append((values, *self._gae(rewards, values, batch.answer)))
        every = torch.cat([gain[batch.answer] for batch, (_, gain, _) in zip(batches, prepared, strict=True)])
        for batch, (old, gain, returns) in zip(batches, prepared, strict=True):
            advantage = (gain - every.mean()) / (every.std() + 1e-8)
            ratio = (self.log_probs(self.policy, batch) - batch.behaviour).exp()
            policy = -torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)[batch.answer].sum()
            (policy / len(every)).backward()
            values = self.critic(batch)[:, :-1]
            clipped = old + (values - old).clamp(-0.2, 0.2)
            worse = torch.maximum((values - returns) ** 2, (clipped - returns) ** 2)[batch.answer].sum()
            (0.05 * worse / len(every)).backward()
        torch.nn.utils.clip_grad_norm_(self.trained, 1.0)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)

    @staticmethod
    def _gae(rewards: Tensor, values: Tensor, answer: Tensor, lam: float = 0.95) -> tuple[Tensor, Tensor]:
        gains, carried, following = torch.zeros_like(rewards), torch.zeros(len(rewards)), torch.zeros(len(rewards))
        for t in range(rewards.shape[1] - 1, -1, -1):
            inside = answer[:, t]
            carried = torch.where(inside, rewards[:, t] + following - values[:, t] + lam * carried, 0.0)
            following = torch.where(inside, values[:, t], 0.0)
            gains[:, t] = carried
        return gains, gains + values
