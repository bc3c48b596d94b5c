"""One base model in memory that plays every role of the learner.

The policy, the reward model and the critic are LoRA adapters on it, the last two with a scalar head; the reference is
the base with all adapters off, and is therefore frozen and can't be reset by accident.

Knows Hugging Face causal LMs and PEFT. Knows nothing of losses, optimisers or where adapters are published.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Literal

import torch
from peft import LoraConfig, PeftModel
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from schemas.errors import ConfigError
from trainer.data import TokenPair
from trainer.learn.config import LoraSettings
from trainer.models.batching import TokenBatch, groups, make_batch, micro_batches
from trainer.models.forward import align, answer_logits
from trainer.models.packing import can_pack, model_inputs

POLICY = "policy"
"""The one role without a scalar head."""
Pooling = Literal["last", "mean"]
"""Which state stands for an answer: that of its last token, or the mean over its tokens."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class SharedBase:
    """A frozen causal LM with one LoRA adapter per role, opened when first asked for.

    Not safe for use by several threads at once: the active role is a state of the model.
    """

    def __init__(self, model: PreTrainedModel, lora: LoraSettings, public_name: str = "base") -> None:
        self._causal: nn.Module = model.requires_grad_(False).eval()
        self._packs = can_pack(model)
        self._backbone: nn.Module = model.base_model
        self._hidden_size = int(model.config.get_text_config().hidden_size)
        self._lora = lora
        self._peft: PeftModel | None = None
        self._heads: dict[str, nn.Linear] = {}
        self._active: str | None = None
        self._autocast = False
        self.public_name = public_name

    @classmethod
    def load(
        cls,
        path_or_name: str | Path,
        lora: LoraSettings | None = None,
        *,
        dtype: str = "float32",
        device: str = "cpu",
        public_name: str = "base",
    ) -> SharedBase:
        """Load any Hugging Face causal LM from a folder or by name.

        Args:
            dtype: of the base weights; adapters and heads are always float32.
            public_name: what saved adapters call their base; never a path of this machine.

        Raises:
            ConfigError: unknown dtype.
        """
        if dtype not in DTYPES:
            raise ConfigError(f"dtype {dtype} is not one of {', '.join(DTYPES)}", field="dtype")
        model = AutoModelForCausalLM.from_pretrained(str(path_or_name), dtype=DTYPES[dtype]).to(device)
        return cls(model, lora or LoraSettings(), public_name)

    @property
    def device(self) -> torch.device:
        """Where the base's weights are."""
        return next(self._causal.parameters()).device

    @property
    def module(self) -> nn.Module:
        """The causal LM itself, adapters injected; it plays the role in play."""
        return self._causal

    @property
    def lora(self) -> LoraSettings:
        """Shape of every role's adapter."""
        return self._lora

    @property
    def peft_config(self) -> LoraConfig:
        """PEFT's configuration of the adapters, target modules resolved to names. A role must be open."""
        if self._peft is None:
            raise ConfigError("No role was opened on this base")
        return next(iter(self._peft.peft_config.values()))

    def open(self, role: str, seed: int) -> None:
        """Give `role` a fresh adapter: A Kaiming-uniform from `seed`, B zero, so that it starts as the base itself.

        Opening a role again resets it. Every role but `policy` also has a scalar head, started at zero: `reward`,
        `critic`, and any further reward model under a name of its own (letters, digits, `-`).
        """
        if self._peft is None:
            self._peft = PeftModel(self._causal, self._new_config(), adapter_name=role)
        elif role not in self._peft.peft_config:
            self._peft.add_adapter(role, self._new_config())
        if role != POLICY and role not in self._heads:
            self._heads[role] = nn.Linear(self._hidden_size, 1, device=self.device, dtype=torch.float32)
        self._active = None  # PEFT may have switched adapters
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, parameter in self.parameters(role).items():
                if ".lora_A." in name:
                    bound = 1 / math.sqrt(parameter.shape[1])  # = kaiming_uniform_(a=sqrt(5)), PEFT's default
                    fresh = torch.rand(parameter.shape, generator=generator) * 2 * bound - bound
                    parameter.copy_(fresh.to(parameter.device))
                else:
                    parameter.zero_()

    def _new_config(self) -> LoraConfig:
        lora = self._lora
        # Resolved once: in a model that holds adapters, "all-linear" would find the adapters' own layers too.
        targets = "all-linear" if self._peft is None else self.peft_config.target_modules
        return LoraConfig(
            r=lora.rank, lora_alpha=lora.alpha, lora_dropout=0.0, target_modules=targets, task_type="CAUSAL_LM"
        )

    def parameters(self, role: str) -> dict[str, nn.Parameter]:
        """The trainable weights of `role`, sorted by name: PEFT's names, and `head.weight` and `head.bias`."""
        if self._peft is None or role not in self._peft.peft_config:
            raise ConfigError(f"Role {role} was not opened on this base")
        marker = f".{role}."
        found = {
            name.replace(marker, "."): parameter
            for name, parameter in self._peft.named_parameters()
            if marker in name and ".lora_" in name
        }
        if role in self._heads:
            found |= {f"head.{name}": parameter for name, parameter in self._heads[role].named_parameters()}
        return dict(sorted(found.items()))

    def snapshot(self, role: str) -> dict[str, Tensor]:
        """A copy of the role's weights, by name."""
        return {name: parameter.detach().clone() for name, parameter in self.parameters(role).items()}

    def restore(self, role: str, weights: dict[str, Tensor]) -> None:
        """Set the role's weights.

        Raises:
            ConfigError: names or shapes differ from this base's adapter.
        """
        parameters = self.parameters(role)
        wrong = set(parameters) ^ set(weights)
        wrong |= {name for name in parameters.keys() & weights.keys() if parameters[name].shape != weights[name].shape}
        if wrong:
            raise ConfigError(f"Adapter does not fit this base: {sorted(wrong)[:3]} differ", field="adapter")
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(weights[name])

    @contextmanager
    def role(self, role: str | None) -> Iterator[None]:
        """Let the base play `role` inside the block; None is the reference (all adapters off)."""
        if self._peft is None:
            if role is not None:
                raise ConfigError(f"Role {role} was not opened on this base")
            yield
        elif role is None:
            with self._peft.disable_adapter():
                yield
        else:
            if self._active != role:
                self._peft.set_adapter(role)
                self._active = role
            yield

    @contextmanager
    def computing(self, *, autocast: bool = False, checkpointing: bool = False) -> Iterator[None]:
        """How forward passes are computed inside the block.

        Args:
            autocast: matrix products in bfloat16; what comes out is float32 all the same.
            checkpointing: keep only each layer's input and compute the layer again for the gradient. The role must
                not change between a forward pass and its backward pass.
        """
        layers = [layer for layer in self._causal.modules() if isinstance(layer, GradientCheckpointingLayer)]
        self._autocast = autocast
        if checkpointing:
            self._causal.gradient_checkpointing_enable({"use_reentrant": False})  # type: ignore[operator]
        for layer in layers:
            # The layer alone looks at this flag; what drops out below it stays in evaluation mode.
            layer.training = checkpointing
        try:
            yield
        finally:
            self._autocast = False
            for layer in layers:
                layer.training = False
            if checkpointing:
                self._causal.gradient_checkpointing_disable()  # type: ignore[operator]

    def _precision(self) -> AbstractContextManager[None]:
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self._autocast)

    def batch(self, pairs: Sequence[TokenPair], rows: Sequence[int]) -> TokenBatch:
        """The pairs at `rows` as one batch: packed where the architecture takes that, else padded."""
        return make_batch(pairs, rows, self.device, packed=self._packs)

    def batches(self, pairs: Sequence[TokenPair], rows: Sequence[int], token_budget: int) -> Iterator[TokenBatch]:
        """Micro-batches over `rows` of `pairs`, each of `token_budget` positions at most."""
        return micro_batches(pairs, rows, token_budget, self.device, packed=self._packs)

    def groups(self, units: Sequence[Sequence[TokenPair]], token_budget: int) -> Iterator[list[int]]:
        """`batching.groups` of sequences that must stay together."""
        return groups(units, token_budget, packed=self._packs)

    def logits(self, batch: TokenBatch) -> Tensor:
        """`forward.answer_logits` of the role in play: [N, V]."""
        with self._precision():
            return answer_logits(self._causal, batch)

    def logits_and_states(self, batch: TokenBatch) -> tuple[Tensor, Tensor]:
        """`logits`, and in the same forward pass the states that predict the answer tokens: float32 [N, H], after the
        final norm."""
        seen: list[Tensor] = []
        hook = self._backbone.register_forward_hook(lambda _module, _args, output: seen.append(output[0]))
        try:
            logits = self.logits(batch)
        finally:
            hook.remove()
        return logits, seen[0].flatten(0, 1)[batch.positions[batch.mask]].float()

    def hidden(self, batch: TokenBatch) -> Tensor:
        """Last hidden states [L x T, H] (after the final norm), by the role in play."""
        with self._precision():
            states: Tensor = self._backbone(**model_inputs(batch))[0]
        return states.flatten(0, 1).float()

    @property
    def hidden_size(self) -> int:
        """H, the width of a state."""
        return self._hidden_size

    def pooled(self, batch: TokenBatch, pooling: Pooling) -> Tensor:
        """One state [B, H] for each answer, by the role in play."""
        states = self.hidden(batch)
        if pooling == "last":
            return states[batch.last]
        return torch.where(batch.mask[..., None], states[batch.own], 0.0).sum(1) / batch.mask.sum(1, keepdim=True)

    def scalar(self, role: str, batch: TokenBatch, pooling: Pooling = "last") -> Tensor:
        """The head's number for each answer: [B]. `role` must be in play."""
        return self.project(role, self.pooled(batch, pooling))

    def scalars(self, role: str, batch: TokenBatch) -> Tensor:
        """The head's number at the state that predicts each answer token: [B, A]. `role` must be in play."""
        return align(self.project(role, self.hidden(batch)[batch.positions[batch.mask]]), batch)

    def project(self, role: str, states: Tensor) -> Tensor:
        """The scalar head of `role` on states [..., H] -> [...]."""
        numbers: Tensor = self._heads[role](states)
        return numbers.squeeze(-1)
