"""The SFT stage as a command runs it: demonstrations in a file, a model in a folder, a tuned one out.

A demonstration is a chat whose last message is the answer to imitate. Knows text and chat templates; the training is
in `trainer.learn.sft`.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Sequence
from pathlib import Path

from pydantic import Field, ValidationError, model_validator
from transformers import PreTrainedTokenizerBase

from exchange.fingerprint import local_model_folder
from schemas.base import Body
from schemas.errors import InvalidInput
from schemas.wire import validation_summary
from trainer.data import Demonstration
from trainer.gates.sample import end_tokens, load_tokenizer, render_chat
from trainer.learn.config import LoraSettings, SftConfig
from trainer.learn.sft import train_sft
from trainer.metrics import TrainerMetrics
from trainer.progress import Reporter, open_display
from trainer.suites.cases import Message

log = logging.getLogger(__name__)


class DemonstrationLine(Body):
    """One line of a demonstrations file."""

    messages: tuple[Message, ...] = Field(min_length=2, description="a chat; its last message is the answer")

    @model_validator(mode="after")
    def _answer_last(self) -> DemonstrationLine:
        if self.messages[-1].role != "assistant":
            raise ValueError("the last message must be the assistant's: it is the answer to imitate")
        return self


def run_sft(
    *,
    demonstrations: Path,
    model: str,
    out: Path,
    lora: bool = False,
    config: SftConfig | None = None,
    shape: LoraSettings | None = None,
) -> Path:
    """Tune `model` (a folder or a Hugging Face name) on the JSONL file `demonstrations` and write the result to `out`.

    Args:
        out: must not exist; becomes a model folder with its tokenizer, or an adapter.
        lora: train an adapter instead of all weights, unless `config` says.
        config: default: 3 epochs, learning rate 2e-4 for an adapter (Schulman et al. 2025: ten times that of full
            tuning, ours) and 2e-5 for all weights.
        shape: of the adapter.

    Raises:
        InvalidInput: the file cannot be read, or a line of it is faulty (named by number).
        ConfigError: the model has no chat template.
        Conflict: `out` exists.
    """
    folder = local_model_folder(model)
    tokenizer = load_tokenizer(folder)
    items = read_demonstrations(demonstrations, tokenizer, ends=end_tokens(folder, tokenizer))
    chosen = config or SftConfig(method="lora" if lora else "full", learning_rate=2e-4 if lora else 2e-5)
    with open_display() as display:
        reporter = Reporter(display, TrainerMetrics(), threading.Event())
        reporter.say(f"{len(items)} demonstrations, {sum(len(item.answer_ids) for item in items)} answer tokens")
        return train_sft(folder, items, chosen, out, lora=shape, progress=reporter)


def read_demonstrations(
    path: Path, tokenizer: PreTrainedTokenizerBase, *, ends: Sequence[int]
) -> tuple[Demonstration, ...]:
    """The demonstrations of a JSONL file as tokens; blank lines are skipped.

    Args:
        ends: token ids that end an answer.

    Raises:
        InvalidInput: the file cannot be read, is empty, or a line of it is faulty.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{path} cannot be read: {error}", field="demonstrations") from error
    items = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            parsed = DemonstrationLine.model_validate(json.loads(line))
        except json.JSONDecodeError as error:
            raise InvalidInput(f"line {number} of {path.name} is no JSON: {error}", field="demonstrations") from error
        except ValidationError as error:
            words = f"line {number} of {path.name} is no demonstration: {validation_summary(error)}"
            raise InvalidInput(words, field="demonstrations") from error
        items.append(to_tokens(parsed.messages, tokenizer, ends))
    if not items:
        raise InvalidInput(f"{path.name} has no demonstrations", field="demonstrations")
    return tuple(items)


def to_tokens(messages: Sequence[Message], tokenizer: PreTrainedTokenizerBase, ends: Sequence[int]) -> Demonstration:
    """A chat as the model meets it when it serves: the prompt up to the answer, then the answer with its end token."""
    chat = [message.model_dump() for message in messages]
    prompt = render_chat(tokenizer, chat[:-1])
    whole = tuple(tokenizer.apply_chat_template(chat, tokenize=True, return_dict=False))
    if whole[: len(prompt)] == prompt:
        answer = whole[len(prompt) :]
        places = [place for place, token in enumerate(answer) if token in ends]
        if places:  # what a template writes after the end token is never sampled
            return Demonstration(prompt, answer[: places[-1] + 1])
    # Some templates render a finished answer otherwise than they open one.
    answer = tuple(tokenizer.encode(chat[-1]["content"], add_special_tokens=False))
    return Demonstration(prompt, (*answer, ends[0]))
