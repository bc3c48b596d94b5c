"""A small world on disk: a tiny base, a log with answers it really sampled, comparisons and thumbs, and settings."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import torch

from exchange.fingerprint import base_fingerprint, chat_template_hash
from exchange.open import open_keys, open_log
from exchange.settings import build_settings
from schemas.completion import CompletionChoice, CompletionRecorded, SamplingParameters
from schemas.event import Event
from schemas.wire import encode_event
from tests.factories import PLAIN, Maker
from tests.invariants.worlds import naive_kept
from trainer.gates.measure import answer_logprobs
from trainer.gates.sample import load_tokenizer, render_chat, sample
from trainer.learn.config import LoraSettings
from trainer.models.base import SharedBase
from trainer.settings import TrainerSettings

TOPICS = ("order", "refund", "parcel", "password", "account", "phone", "number", "warehouse")
END = 2  # <eos> of the tiny model


class World:
    """Everything under one folder; copy the folder to get the same world again."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.folder = folder
        self.model = model
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def log(self) -> str:
        return f"sqlite:///{self.folder / 'log.db'}"

    @property
    def registry(self) -> str:
        return f"file://{self.folder / 'registry'}"

    def settings(self, **sections: Any) -> TrainerSettings:
        """Small and quick: two PPO steps or so."""
        defaults: dict[str, Any] = {
            "log": self.log,
            "registry": self.registry,
            "keys": f"sqlite:///{self.folder / 'keys.db'}",
            "state_dir": self.folder / "state",
            "model": str(self.model),
            "device": "cpu",
            "poll_s": 0.05,
            "feedback": {"min_new_labels": 20, "min_answers": 8, "feedback_window_ms": 1000},
            "lora": {"rank": 4, "alpha": 8},
            "reward_model": {"batch_sets": 16},
            "learner": {"checkpoint_every": 1},
            "ppo": {"minibatch_answers": 16, "learning_rate": 1e-3},
            # Of so few people too little is held out to tell the reward model's accuracy by.
            "gates": {"prompts": 16, "max_new_tokens": 8, "must_measure": ["kl_budget"]},
            "suites": {"max_new_tokens": 8},
            "promotion": {"min_votes": 4, "min_margin": 0.2, "max_votes": 20, "canary_share": 0.5},
        }
        values = {
            name: {**value, **sections.pop(name, {})} if isinstance(value, dict) else sections.pop(name, value)
            for name, value in defaults.items()
        }
        return build_settings(TrainerSettings, {**values, **sections})

    def write(self, events: Sequence[Event]) -> None:
        with open_log(self.log) as log:
            log.append([encode_event(event) for event in events])

    def talk(
        self, *, start_ms: int, comparisons: int, seed: int, prefix: str, sampling: SamplingParameters = PLAIN
    ) -> None:
        """People compare two answers each to one question and like those that say more different things.

        Sampling that truncates is done here token by token, since the trainer's own sampler never does it.
        """
        base = SharedBase.load(self.model, LoraSettings(rank=4, alpha=8))
        tokenizer = load_tokenizer(self.model)
        chats = [
            [{"role": "user", "content": f"Where is my {TOPICS[number % 8]} {number % 5}?"}]
            for number in range(comparisons)
        ]
        prompts = [render_chat(tokenizer, chat) for chat in chats for _ in range(2)]
        if sampling.top_k:
            drawn = _sample_top_k(base, prompts, sampling, seed)
            answers, logprobs = [ids for ids, _ in drawn], [chances for _, chances in drawn]
        else:
            answers = [
                (*(token for token in answer if token != END), END)
                for answer in sample(base, None, prompts, max_new_tokens=8, greedy=False, seed=seed)
            ]
            logprobs = answer_logprobs(base, None, list(zip(prompts, answers, strict=True)), token_budget=2048)
        with closing(open_keys(f"sqlite:///{self.folder / 'keys.db'}")) as keys:
            make = Maker()
            make.keys = keys  # type: ignore[assignment]
            as_sampled = partial(self._completion, make, sampling)
            events: list[Event] = []
            for number in range(comparisons):
                at = start_ms + 10 * number
                pair = [
                    as_sampled(f"{prefix}{row}", at, number, prompts[row], answers[row], logprobs[row])
                    for row in (2 * number, 2 * number + 1)
                ]
                better = 0 if len(set(answers[2 * number])) >= len(set(answers[2 * number + 1])) else 1
                user = f"user-{number % 12}"
                events += pair
                events.append(make.comparison(pair, better, at + 5, user=user, id=f"fb-{prefix}-c{number}"))
                varied = {"opening": answers[2 * number + better][0] / 1_000}
                thumb = make.thumb(pair[better], True, at + 6, user=user, id=f"fb-{prefix}-t{number}", aspects=varied)
                events.append(thumb)
            # Event time goes on, so that all windows close.
            late = start_ms + 10 * comparisons + 5_000
            events.append(as_sampled(f"{prefix}late", late, 0, prompts[0], answers[0], logprobs[0]))
            self.write(events)

    def vote(self, *, canary: int, stable: int, wins: int, losses: int, at_ms: int, prefix: str) -> None:
        """Blinded comparisons between two versions; what the answers said does not matter to votes."""
        make = Maker()
        events: list[Event] = []
        for number in range(wins + losses):
            pair = [
                make.completion(at_ms, version=version, id=f"{prefix}{number}v{version}", user=f"voter-{number}")
                for version in (canary, stable)
            ]
            winner = 0 if number < wins else 1
            events.append(make.comparison(pair, winner, at_ms, user=f"voter-{number}", id=f"fb-{prefix}{number}"))
        self.write(events)

    def _completion(
        self,
        make: Maker,
        sampling: SamplingParameters,
        name: str,
        at: int,
        number: int,
        prompt: Sequence[int],
        answer: Sequence[int],
        logprobs: Sequence[float],
    ) -> CompletionRecorded:
        choice = CompletionChoice(
            index=0, token_count=len(answer), logprobs=tuple(logprobs), finish_reason="stop", seen=True
        )
        return make.completion(
            at,
            user=f"user-{number % 12}",
            answers=[answer],
            prompt=prompt,
            version=0,
            id=name,
            base_fingerprint=base_fingerprint(self.model),
            chat_template_hash=chat_template_hash(self.model),
            choices=(choice,),
            sampling=sampling,
        )


@torch.no_grad()
def _sample_top_k(
    base: SharedBase, prompts: Sequence[Sequence[int]], sampling: SamplingParameters, seed: int
) -> list[tuple[tuple[int, ...], tuple[float, ...]]]:
    """Eight tokens for each prompt out of what top_k and top_p keep, with their logprobs as vLLM would log them."""
    generator = torch.Generator().manual_seed(seed)
    drawn = []
    for prompt in prompts:
        ids, chances = list(prompt), []
        for _ in range(8):
            logits = base.module(input_ids=torch.tensor([ids])).logits[0, -1] / sampling.temperature
            kept = sorted(naive_kept(logits.tolist(), sampling.top_k, sampling.top_p))
            log_p = torch.log_softmax(logits[kept], -1)
            place = int(torch.multinomial(log_p.exp(), 1, generator=generator))
            ids.append(kept[place])
            chances.append(float(log_p[place]))
        drawn.append((tuple(ids[len(prompt) :]), tuple(chances)))
    return drawn
