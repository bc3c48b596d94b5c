"""Should a turn train its reward model anew from all labels, or go on from the last turn's?

The demo's people compare two answers to each question, turn by turn. Three ways: anew (a probe, then an epoch over all
labels so far: what the trainer does), going on from the last model over all labels, and over the new ones alone. Each
is judged after every turn on the same comparisons of other people. `ours` and `theirs` are the held-out accuracies
after the last turn, anew and of the better of the other two, `ratio` the CPU seconds of all turns anew over those of
that other. Prints one JSON object as its last line.
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
from itertools import count
from pathlib import Path

from deploy.demo.base import BaseOptions, make_base
from deploy.demo.domain import STYLE_SHARES, Question, answer_in_style, intents, user_questions
from deploy.demo.preferences import shipped
from deploy.demo.users import User, Verdict, make_users
from trainer.data import PreferencePair
from trainer.gates.sample import answer_encoder, load_tokenizer, render_chat
from trainer.learn.config import LoraSettings, RewardConfig
from trainer.learn.reward import train_reward_model
from trainer.models.base import SharedBase
from trainer.settings import FeedbackSection

ANEW, ALL, NEW = "anew", "on, all labels", "on, new labels"
CONFIG = RewardConfig(pooling="mean")
PEOPLE = 40
JUDGES = 200
"""Held-out comparisons."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--labels", type=int, default=40, help="comparisons that each turn brings")
    parser.add_argument("--bases", type=Path, default=Path(".attune/bases"), help="where the demo's base lies")
    asked = parser.parse_args()
    folder = make_base(asked.bases, BaseOptions())
    runs = [run(folder, seed, asked.turns, asked.labels) for seed in range(asked.seeds)]
    arms = list(runs[0])
    print(f"| labels | {' | '.join(f'{arm}: accuracy | s' for arm in arms)} |\n|{' --- |' * (1 + 2 * len(arms))}")
    for turn in range(asked.turns):
        cells = [f"{_mean(runs, arm, turn, 0):.3f} | {_mean(runs, arm, turn, 1):.1f}" for arm in arms]
        print(f"| {(turn + 1) * asked.labels} | {' | '.join(cells)} |")
    last = {arm: [one[arm][-1][0] for one in runs] for arm in arms}
    seconds = {arm: sum(step[1] for one in runs for step in one[arm]) for arm in arms}
    other = max((ALL, NEW), key=lambda arm: statistics.mean(last[arm]))
    gains = [ours - theirs for ours, theirs in zip(last[ANEW], last[other], strict=True)]
    result = {
        "name": "warm-start",
        "ours": statistics.mean(last[ANEW]),
        "theirs": statistics.mean(last[other]),
        "ratio": seconds[ANEW] / seconds[other],
        "spread": [min(gains), max(gains)],
        "other": other,
    }
    print(json.dumps(result))


def run(folder: Path, seed: int, turns: int, labels: int) -> dict[str, list[tuple[float, float]]]:
    """Held-out accuracy and CPU seconds of each arm at each turn."""
    people, rng = shipped("mixed").tastes, random.Random(f"warm start {seed}")
    hear = Hearing(folder, rng)
    heldout = hear.comparisons(make_users(PEOPLE, 1_000 + seed, people), JUDGES)
    batches = [hear.comparisons(make_users(PEOPLE, seed, people), labels) for _ in range(turns)]
    found: dict[str, list[tuple[float, float]]] = {ANEW: [], ALL: [], NEW: []}
    with tempfile.TemporaryDirectory() as work:
        for arm, steps in found.items():
            base, last = SharedBase.load(folder, LoraSettings()), None
            for turn, batch in enumerate(batches):
                pairs = batch if arm == NEW else [pair for part in batches[: turn + 1] for pair in part]
                began = time.process_time()
                model = train_reward_model(base, pairs, [], CONFIG, seed, start_from=None if arm == ANEW else last)
                seconds = time.process_time() - began
                last = model.save(Path(work) / f"{arm}-{turn}")
                steps.append((model.evaluate(heldout, [])["accuracy_pairs"], seconds))
                print(f"seed {seed}, {arm}, turn {turn}: {steps[-1]}", file=sys.stderr, flush=True)
    return found


class Hearing:
    """What people say when they are shown two answers of the base's styles to one question."""

    def __init__(self, folder: Path, rng: random.Random) -> None:
        self._tokenizer = load_tokenizer(folder)
        self._encode = answer_encoder(folder, self._tokenizer, FeedbackSection().max_imported_tokens)
        self._rng, self._questions, self._names = rng, user_questions(rng), count()

    def comparisons(self, people: Sequence[User], wanted: int) -> list[PreferencePair]:
        """As many as wanted in which one answer won."""
        pairs: list[PreferencePair] = []
        while len(pairs) < wanted:
            question, user = next(self._questions), self._rng.choice(people)
            first, second = _two_answers(question, self._rng)
            feelings = [user.utility(question, text, self._rng) for text in (first, second)]
            verdict = user.compares(feelings[0], feelings[1], self._rng)
            if first == second or verdict not in (Verdict.FIRST, Verdict.SECOND):
                continue
            better, worse = (first, second) if verdict is Verdict.FIRST else (second, first)
            prompt = render_chat(self._tokenizer, question.messages())
            chosen, rejected = (self._encode(prompt, text) for text in (better, worse))
            name = str(next(self._names))
            pairs.append(PreferencePair(prompt, chosen, rejected, False, 1.0, user.name, "comparison", name))
        return pairs


def _two_answers(question: Question, rng: random.Random) -> tuple[str, str]:
    intent = next(one for one in intents() if one.name == question.intent)
    styles = rng.choices(list(STYLE_SHARES), list(STYLE_SHARES.values()), k=2)
    first, second = (answer_in_style(intent, question, style, rng) for style in styles)
    return first, second


def _mean(runs: list[dict[str, list[tuple[float, float]]]], arm: str, turn: int, which: int) -> float:
    return statistics.mean(one[arm][turn][which] for one in runs)


if __name__ == "__main__":
    main()
