"""DPO, KTO and SFT on liked answers as a run's methods: no reward model, no critic, no sampling.

All three see a whole answer as one number, its logprob under the policy less that under the frozen base (at temperature
1), and differ in the loss on it. A step's loss is its share of the loss over all examples, times the steps of an epoch:
a step that happens to hold light examples weighs less. Knows a shared base and examples; the losses are in
`trainer.algorithms`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from schemas.errors import InvalidInput
from trainer.algorithms.dpo import dpo_losses, implied_margins
from trainer.algorithms.kto import kto_losses, reference_point
from trainer.algorithms.sequences import answer_log_probs
from trainer.data import TokenPair
from trainer.learn.config import DpoConfig, KtoConfig, LearnerConfig, PreferenceConfig
from trainer.learn.examples import Example
from trainer.learn.optimise import schedule
from trainer.learn.plan import make_plan
from trainer.learn.progress import Progress
from trainer.models.base import POLICY, SharedBase
from trainer.models.batching import TokenBatch
from trainer.models.forward import log_softmax, pick_tokens


class LabelledMethod(ABC):
    """What the three share: the plan, the reference's logprobs, and the accumulation of one step's gradient."""

    name: ClassVar[str]

    def __init__(
        self,
        base: SharedBase,
        examples: Sequence[Example],
        learner: LearnerConfig,
        config: PreferenceConfig,
        seed: int,
        progress: Progress,
    ) -> None:
        if not examples:
            raise InvalidInput(f"There is nothing that {self.name} could learn from", field="examples")
        self.base, self.progress, self.warmup = base, progress, config.warmup_fraction
        self.token_budget = learner.micro_batch_tokens
        self.rates = {POLICY: config.learning_rate}
        per_step = config.minibatch_pairs if isinstance(config, DpoConfig) else config.minibatch_answers
        rows, self.plan = make_plan(
            [example.tokens for example in examples],
            per_step=per_step,
            epochs=config.epochs,
            seed=seed,
            max_tokens=learner.max_tokens,
        ).compact()
        self.scale = -(-len(examples) // per_step) / sum(example.weight * self._size(example) for example in examples)
        self.examples = [examples[row] for row in rows]
        self.sequences = [answer for example in self.examples for answer in example.answers]
        self.weights = torch.tensor([example.weight for example in self.examples])
        self.liked = torch.tensor([example.liked for example in self.examples])
        self.reference = torch.empty(0)

    def prepare(self) -> None:
        """Logprob of each answer under the frozen base, [N, answers of an example]."""
        each = len(self.examples[0].answers) if self.examples else 1
        self.reference = self._frozen(None, self.sequences, tell=True).view(len(self.examples), each)

    def begin_epoch(self, epoch: int) -> None:  # noqa: B027 there is nothing to do
        """Nothing changes from epoch to epoch."""

    def rate_factor(self, step: int) -> float:
        """Linear warm-up, then cosine to a tenth."""
        return schedule(step / len(self.plan.steps), self.warmup)

    def end_epoch(self, epoch: int, kl: float) -> None:  # noqa: B027 there is nothing to do
        """Nothing changes from epoch to epoch."""

    def tensors(self) -> dict[str, Tensor]:
        """The reference's logprobs."""
        return {"reference": self.reference}

    def state(self) -> dict[str, float]:
        """Nothing changes from epoch to epoch."""
        return {}

    def restore(self, tensors: Mapping[str, Tensor], state: Mapping[str, float]) -> None:
        """The reference's logprobs out of a checkpoint."""
        self.reference = tensors["reference"]

    def figures(self) -> dict[str, float]:
        """examples: how many took part."""
        return {"examples": float(len(self.examples))}

    def accumulate(self, rows: Sequence[int]) -> tuple[dict[str, float], str | None]:
        """Gradients of the policy on the examples at `rows`, micro-batch by micro-batch."""
        each = len(self.examples[0].answers)
        extra = self._before(rows)
        ratios = torch.zeros(len(self.examples), each)
        total = 0.0
        chosen = list(rows)
        for places in self.base.groups([self.examples[row].answers for row in chosen], self.token_budget):
            group = [chosen[place] for place in places]
            flat = [row * each + place for row in group for place in range(each)]
            batch = self.base.batch(self.sequences, flat)
            with self.base.role(POLICY):
                now = self._answer_log_probs(batch).view(len(group), each)
            ratio = now - self.reference[group].to(now.device)
            losses = self._losses(now, ratio, self.liked[group].to(now.device))
            loss = self.scale * (self.weights[group].to(now.device) * losses).sum()
            torch.autograd.backward(loss)
            total += float(loss.detach())
            ratios[group] = ratio.detach().cpu()
        metrics = {"loss": total} | extra | self._figures(ratios[chosen], chosen)
        wrong = sorted(name for name, value in metrics.items() if not math.isfinite(value))
        return metrics, f"non-finite {wrong[0]}" if wrong else None

    def _answer_log_probs(self, batch: TokenBatch) -> Tensor:
        return answer_log_probs(pick_tokens(log_softmax(self.base.logits(batch), batch), batch), batch.mask)

    @torch.no_grad()
    def _frozen(self, role: str | None, sequences: Sequence[TokenPair], *, tell: bool = False) -> Tensor:
        """Logprob of each whole answer under `role`, without gradient, on the CPU. [N]."""
        found, done = torch.zeros(len(sequences)), 0
        for batch in self.base.batches(sequences, range(len(sequences)), self.token_budget):
            with self.base.role(role):
                found[list(batch.rows)] = self._answer_log_probs(batch).cpu()
            done += len(batch.rows)
            if tell:
                self.progress(f"{self.name}_prepare", done, len(sequences), {})
        return found

    @staticmethod
    def _size(example: Example) -> float:
        """What an example counts beside its weight in the mean over all."""
        return 1.0

    def _before(self, rows: Sequence[int]) -> dict[str, float]:
        """What a step needs of all its examples before its gradient; as metrics."""
        return {}

    @abstractmethod
    def _losses(self, log_probs: Tensor, ratios: Tensor, liked: Tensor) -> Tensor:
        """The loss of each example [N], from logprobs and log ratios of its answers [N, answers of an example]."""

    @abstractmethod
    def _figures(self, ratios: Tensor, rows: Sequence[int]) -> dict[str, float]:
        """Metrics of one step, from its log ratios [N, answers of an example]."""


class DPOMethod(LabelledMethod):
    """Direct preference optimisation."""

    name = "dpo"

    def __init__(
        self,
        base: SharedBase,
        examples: Sequence[Example],
        learner: LearnerConfig,
        config: DpoConfig,
        seed: int,
        progress: Progress,
    ) -> None:
        super().__init__(base, examples, learner, config, seed, progress)
        self.beta = config.beta

    def _losses(self, log_probs: Tensor, ratios: Tensor, liked: Tensor) -> Tensor:
        return dpo_losses(implied_margins(ratios[:, 0], ratios[:, 1]), beta=self.beta)

    def _figures(self, ratios: Tensor, rows: Sequence[int]) -> dict[str, float]:
        margins = implied_margins(ratios[:, 0], ratios[:, 1])
        return {
            "implied_margin": float(self.beta * margins.mean()),
            "implied_accuracy": float((margins > 0).double().mean()),
            "chosen_log_ratio": float(ratios[:, 0].mean()),
            "rejected_log_ratio": float(ratios[:, 1].mean()),
        }


class KTOMethod(LabelledMethod):
    """Kahneman-Tversky optimisation."""

    name = "kto"

    def __init__(
        self,
        base: SharedBase,
        examples: Sequence[Example],
        learner: LearnerConfig,
        config: KtoConfig,
        seed: int,
        progress: Progress,
    ) -> None:
        super().__init__(base, examples, learner, config, seed, progress)
        self.beta, self.z0 = config.beta, torch.zeros(())

    def _before(self, rows: Sequence[int]) -> dict[str, float]:
        """The reference point, from each prompt of the whole step with the answer of the next one."""
        own = [self.sequences[row] for row in rows]
        crossed = [(prompt, answer) for (prompt, _), (_, answer) in zip(own, own[1:] + own[:1], strict=True)]
        self.z0 = reference_point(self._frozen(POLICY, crossed) - self._frozen(None, crossed))
        return {"reference_point": float(self.z0)}

    def _losses(self, log_probs: Tensor, ratios: Tensor, liked: Tensor) -> Tensor:
        return kto_losses(ratios[:, 0], liked, self.z0.to(ratios.device), beta=self.beta)

    def _figures(self, ratios: Tensor, rows: Sequence[int]) -> dict[str, float]:
        liked = self.liked[list(rows)]
        named = {"liked_log_ratio": ratios[liked, 0], "disliked_log_ratio": ratios[~liked, 0]}
        return {name: float(some.mean()) for name, some in named.items() if some.numel()}


class LikedMethod(LabelledMethod):
    """Supervised fine-tuning on liked answers: negative log-likelihood per token."""

    name = "sft"

    @staticmethod
    def _size(example: Example) -> float:
        return float(len(example.answers[0][1]))

    def _losses(self, log_probs: Tensor, ratios: Tensor, liked: Tensor) -> Tensor:
        return -log_probs[:, 0]

    def _figures(self, ratios: Tensor, rows: Sequence[int]) -> dict[str, float]:
        return {"liked_log_ratio": float(ratios.mean())}
