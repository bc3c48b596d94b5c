"""TRL's RewardTrainer on given pairs, set up as fast as it goes on this machine.

The rival of `tests.bench.reward_model`: float32, no gradient checkpointing, pairs of similar length together, no
logging, evaluation or saving. TRL has no padding-free reward training: chosen and rejected answers of a micro-batch
share one padded tensor. Imports nothing of the trainer but its data types.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from typing import Any

from datasets import Dataset
from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor
from transformers import (
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from trl import RewardConfig, RewardTrainer

from trainer.data import PreferencePair


class _Clock(TrainerCallback):  # type: ignore[misc]
    """Processor seconds between the first step's start and the last step's end; set-up does not count."""

    began = ended = 0.0

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.began = time.process_time()

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.ended = time.process_time()


class TRLReward:
    """A reward model by TRL: the model's backbone with a LoRA and a scalar head.

    Args:
        rows: pairs per micro-batch.
        batch: pairs per optimiser step, a multiple of `rows`.
    """

    def __init__(self, model: LlamaForCausalLM, *, rank: int, alpha: int, rate: float, rows: int, batch: int) -> None:
        config = copy.deepcopy(model.config)
        config.num_labels, config.pad_token_id = 1, 0
        whole = LlamaForSequenceClassification(config)
        whole.model.load_state_dict(model.model.state_dict())
        lora = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=0.0, target_modules="all-linear", task_type="SEQ_CLS")
        self.model = get_peft_model(whole, lora)
        words = Tokenizer(WordLevel({"<pad>": 0, "<unk>": 1}, unk_token="<unk>"))
        self._words = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<pad>")
        self._rate, self._rows, self._batch = rate, rows, batch

    def start_from(self, adapter: dict[str, Tensor], head: Tensor) -> None:
        """Take another implementation's weights: PEFT names of a causal LM's LoRA, and the head [1, H]."""
        result = set_peft_model_state_dict(self.model, {**adapter, "base_model.model.score.weight": head})
        assert not result.unexpected_keys, result.unexpected_keys

    @property
    def head(self) -> Tensor:
        """The scalar head's weight that trains, [1, H]."""
        (found,) = (w for name, w in self.model.named_parameters() if "score" in name and w.requires_grad)
        return found

    def train(self, pairs: Sequence[PreferencePair], *, told: bool = False) -> tuple[float, list[float]]:
        """One epoch. Returns processor seconds, and with `told` the loss of each step."""
        columns = {
            "chosen_ids": [[*pair.prompt_ids, *pair.chosen_ids] for pair in pairs],
            "rejected_ids": [[*pair.prompt_ids, *pair.rejected_ids] for pair in pairs],
        }
        longest = [max(map(len, both)) for both in zip(columns["chosen_ids"], columns["rejected_ids"], strict=True)]
        settings = RewardConfig(
            output_dir="unused",
            per_device_train_batch_size=self._rows,
            gradient_accumulation_steps=self._batch // self._rows,
            num_train_epochs=1,
            learning_rate=self._rate,
            lr_scheduler_type="constant",
            weight_decay=0.0,
            max_grad_norm=1.0,
            max_length=None,
            train_sampling_strategy="group_by_length",
            remove_unused_columns=False,  # it would take away the lengths before they are grouped by
            gradient_checkpointing=False,
            bf16=False,
            use_cpu=True,
            logging_strategy="steps" if told else "no",
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        clock = _Clock()
        trainer = RewardTrainer(
            model=self.model,
            args=settings,
            train_dataset=Dataset.from_dict({**columns, "length": longest}),
            processing_class=self._words,
            callbacks=[clock],
        )
        trainer.train()
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        return clock.ended - clock.began, losses
