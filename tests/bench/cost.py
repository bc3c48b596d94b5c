"""What a feedback event and a published version cost, and how that grows from 1,000 events to 10,000 and 100,000.

For each size a process of its own seals and writes made-up events to a SQLite log (of ten: five completions of 24
prompt and 16 answer tokens, three thumbs, a comparison, a display), reads them into the trainer's ledger, looks what
there is to learn, and makes one whole turn of the real trainer on a random Llama of one layer, so that seconds are of
the work around the model: snapshot, reward model, PPO, gates, publication. Counted for each stage: processor seconds,
bytes on disk, tokens through the model.

`growth` is the exponent of each stage's processor seconds between the two largest sizes: 1 is linear, 0 flat. PPO is
held to `max_tokens`, labels and answers of a turn to the settings' defaults (50,000 and 20,000), so no stage may grow
faster than the log. Prints one JSON object as its last line; exits with 1 where a stage grows faster.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from exchange.fingerprint import base_fingerprint, chat_template_hash
from exchange.open import open_keys, open_log
from schemas.completion import CompletionChoice, CompletionRecorded
from schemas.event import Event
from schemas.wire import encode_event
from tests.bench.replay import peak_mib
from tests.factories import Maker
from tests.tiny_models import make_tiny_model
from tests.unit.trainer.control.world import World
from trainer.intake.ingest import Ingest
from trainer.intake.ledger import Ledger
from trainer.main import run_trainer
from trainer.settings import TrainerSettings
from trainer.snapshots.corpus import Corpus

SIZES = (1_000, 10_000, 100_000)
PROMPT, ANSWER = 24, 16
PER_PERSON = 50
"""Events."""
MAX_TOKENS = 100_000
"""Of PPO's training passes in a turn."""
GROWTH_LIMIT = 1.15
_LAX = {"stop_mean_abs_log_ratio": 100.0, "stop_clip_fraction": 1.0, "stop_effective_sample_size": 0.0}
"""The made-up logprobs are about those of a random model, and no limit shall end PPO before its tokens are spent."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--one", type=int, help="a child's part: measure this size")
    asked = parser.parse_args()
    if asked.one:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(measure(asked.one, Path(folder))))
        return
    found = []
    for size in asked.sizes:
        command = [sys.executable, "-m", "tests.bench.cost", "--one", str(size)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            sys.exit(done.stderr)
        found.append(json.loads(done.stdout.splitlines()[-1]))
        print(json.dumps(found[-1]), flush=True)
    growth = exponents(found[-2], found[-1]) if len(found) > 1 else {}
    result = {
        "name": "cost",
        "unit": "processor milliseconds an event",
        "per_event_ms": {one["events"]: one["per_event_ms"] for one in found},
        "per_version": {one["events"]: one["per_version"] for one in found},
        "growth": growth,
    }
    print(json.dumps(result))
    fast = {name: value for name, value in growth.items() if value > GROWTH_LIMIT}
    if fast:
        sys.exit(f"faster than the log grow: {fast}")


def exponents(few: dict[str, Any], many: dict[str, Any]) -> dict[str, float]:
    """For each stage the b of seconds ~ events^b between two sizes."""
    scale = math.log(many["events"] / few["events"])
    return {
        name: round(math.log(many["cpu_s"][name] / spent) / scale, 2)
        for name, spent in few["cpu_s"].items()
        if min(spent, many["cpu_s"][name]) > 0
    }


def measure(size: int, folder: Path) -> dict[str, Any]:
    """One size, from nothing to a version."""
    world = World(folder / "world", make_tiny_model(folder / "model", hidden_size=64, layers=1))
    settings = world.settings(
        learner={"max_tokens": MAX_TOKENS, "checkpoint_every": 8},
        ppo={"learning_rate": 1e-5, "minibatch_answers": 64, **_LAX},
        reward_model={"batch_sets": 32},
    )
    spent: dict[str, float] = {}

    @contextmanager
    def timed(stage: str) -> Iterator[None]:
        began = time.process_time()
        yield
        spent[stage] = round(time.process_time() - began, 3)

    with timed("record"), open_log(world.log) as log, closing(open_keys(settings.keys)) as keys:
        make = Maker()
        make.keys = keys  # type: ignore[assignment]
        events = made_up(make, size, world.model)
        while some := list(islice(events, 500)):
            log.append([encode_event(event) for event in some])
    settings.state_dir.mkdir(parents=True)
    with open_log(world.log) as log, Ledger(settings.state_dir / "ledger.db", "support") as ledger:
        with timed("ingest"), closing(Ingest(log, ledger, "support")) as ingest:
            while ingest.lag():
                ingest.pump()
        with closing(open_keys(settings.keys)) as keys:
            corpus = Corpus(ledger, keys, settings.feedback, base_fingerprint(world.model), lambda *_: ())
            with timed("first_look"):
                _, labels = corpus.count(0, None)
            with timed("next_look"):
                corpus.count(0, None)
            with timed("snapshot"):
                snapshot = corpus.cut(0, folder / "cut", since=None)
            with timed("open"):
                corpus.read(folder / "cut", snapshot.manifest)
    with timed("turn"), counted_tokens() as tokens:
        turn(settings)
    completions = size // 2
    return {
        "events": size,
        "labels": labels,
        "cpu_s": spent,
        "per_event_ms": {name: round(1e3 * spent[name] / size, 3) for name in ("record", "ingest")},
        "per_event_bytes": {
            "log": tree_bytes(world.folder, "log.db*") // size,
            "ledger": tree_bytes(settings.state_dir, "ledger.db*") // size,
            "keys": tree_bytes(world.folder, "keys.db*") // size,
        },
        "per_version": {
            "cpu_s": spent["turn"],
            "tokens_forward": tokens["forward"],
            "tokens_forward_and_back": tokens["back"],
            "tokens_logged": completions * (PROMPT + ANSWER),
            "snapshot_bytes": tree_bytes(folder / "cut", "*"),
            "registry_bytes": tree_bytes(world.folder / "registry", "*"),
        },
        "peak_mib": peak_mib(),
    }


def turn(settings: TrainerSettings) -> None:
    """One turn by the trainer's own entry; it must end with a version, passed or rejected by its gates."""
    code = run_trainer(settings, once=True)
    registry = Path(settings.registry.removeprefix("file://"))
    assert code == 0, code
    assert list(registry.rglob("adapter_model.safetensors")), "no version was made"


@contextmanager
def counted_tokens() -> Iterator[Counter[str]]:
    """Tokens that go through any model inside the block, padding included: `forward` without gradient, `back` with."""
    counts: Counter[str] = Counter()

    def count(module: nn.Module, args: tuple[Any, ...]) -> None:
        if isinstance(module, nn.Embedding) and args and isinstance(args[0], Tensor):
            counts["back" if torch.is_grad_enabled() else "forward"] += args[0].numel()

    handle = register_module_forward_pre_hook(count)
    try:
        yield counts
    finally:
        handle.remove()


def tree_bytes(folder: Path, pattern: str) -> int:
    """Bytes of the files below a folder whose names match."""
    return sum(path.stat().st_size for path in folder.rglob(pattern) if path.is_file())


def made_up(make: Maker, size: int, model: Path) -> Iterator[Event]:
    """`size` events, ten by ten, a second of event time apart; then one that closes all windows."""
    rng = random.Random(0)
    fingerprints = {"base_fingerprint": base_fingerprint(model), "chat_template_hash": chat_template_hash(model)}

    def ids(count: int) -> tuple[int, ...]:
        return tuple(rng.randrange(6, 260) for _ in range(count))

    def completion(at: int, user: str, prompt: tuple[int, ...]) -> CompletionRecorded:
        chances = (-6.0,) * ANSWER  # about what a random model gives a token
        choice = CompletionChoice(index=0, token_count=ANSWER, logprobs=chances, finish_reason="stop", seen=True)
        return make.completion(
            at, user=user, answers=[ids(ANSWER)], prompt=prompt, version=0, choices=(choice,), **fingerprints
        )

    for ten in range(size // 10):
        at, user = 1_000 * ten, f"user-{ten * 10 // PER_PERSON}"
        prompts = [ids(PROMPT) for _ in range(4)]
        said = [completion(at + place, user, prompts[min(place, 3)]) for place in range(5)]  # the last two: one prompt
        yield from said
        for place in range(3):
            yield make.thumb(said[place], rng.random() < 0.5, at + 10 + place, user=user)
        yield make.displayed(said[3:], at + 20)
        yield make.comparison(said[3:], rng.randrange(2), at + 30, user=user)
    yield completion(1_000 * size, "user-0", ids(PROMPT))


if __name__ == "__main__":
    main()
