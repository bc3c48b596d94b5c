"""Runs the study in batches; each run's record is a line in OUT/runs.jsonl, and what is there is not run again.

  python -m tests.bench.study --batch tune      settings on the development seeds
  python -m tests.bench.study --batch test      PPO, none, DPO, KTO on the test seeds, once
  python -m tests.bench.study --batch controls  the other arms on three of them
  python -m tests.bench.study --batch volume    100 to 3,000 words
  python -m tests.bench.study --quick           one small world anew; its last line is one JSON object
  python -m tests.bench.study --tables          what the records in OUT say; with --plot FILE also as a picture

Two such processes share the worlds between them.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from deploy.demo.base import BaseOptions, make_base
from tests.bench.study import tables
from tests.bench.study.arms import run
from tests.bench.study.exam import Examiner
from tests.bench.study.plan import BATCHES, Job, jobs
from tests.bench.study.records import Records
from tests.bench.study.world import open_world
from trainer.gates.sample import load_tokenizer
from trainer.models.base import SharedBase

IN_ORDER = ("test", "controls", "volume")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", choices=sorted(BATCHES), action="append", help=f"default: {', '.join(IN_ORDER)}")
    parser.add_argument("--out", type=Path, default=Path(".attune/study"), help="worlds and records")
    parser.add_argument("--bases", type=Path, default=Path(".attune/bases"), help="where the demo's base is or is made")
    parser.add_argument("--quick", action="store_true", help="one small world")
    parser.add_argument("--tables", action="store_true", help="print the tables")
    parser.add_argument("--plot", type=Path, help="write gold against KL on the test seeds as PNG")
    asked = parser.parse_args()
    if asked.tables:
        print(report(Records(asked.out).all(), asked.plot))
        return
    torch.set_num_threads(1)
    model = make_base(asked.bases, BaseOptions())
    base = SharedBase.load(model)
    if asked.quick:
        with tempfile.TemporaryDirectory() as folder:
            print(quick(base, model, Path(folder)))
        return
    for batch in asked.batch or IN_ORDER:
        work(jobs(batch), base, model, asked.out, Records(asked.out))


def work(todo: Sequence[Job], base: SharedBase, model: Path, out: Path, records: Records) -> None:
    """Make those of the jobs that are not done yet, world by world."""
    for world in dict.fromkeys(job.world for job in todo):
        with records.holding(world.name) as ours:
            left = [job for job in todo if job.world == world and not records.has(job)] if ours else []
            if not left:
                continue
            began = time.monotonic()
            opened = open_world(world, base, model, out / "worlds")
            examiner = Examiner(
                base, load_tokenizer(model), opened.reward, seed=world.seed, questions=left[0].questions
            )
            before = examiner.examine(None, 0)
            _say(f"{world.name}: {time.monotonic() - began:.0f} s")
            for job in left:
                record = run(job.arm, job.setting, opened, base, examiner, before)
                records.add(job, record)
                _say(_line(record))


def quick(base: SharedBase, model: Path, folder: Path) -> str:
    """PPO, DPO and KTO on one small world; `ours` and `theirs` are gains in gold, of PPO and the better other one."""
    records = Records(folder)
    work(jobs("quick"), base, model, folder, records)
    arms = {record["arm"]: record for record in records.all()}
    gains = {arm: tables.gain(record) for arm, record in arms.items()}
    ours, theirs = gains["ppo"], max(gains["dpo"], gains["kto"])
    found = {"name": "study-quick", "ours": ours, "theirs": theirs, "ratio": None, "spread": None, "gains": gains}
    found["kl"] = {arm: record["points"][-1]["kl"] for arm, record in arms.items()}
    return f"{tables.main_table(arms.values())}\n{json.dumps(found)}"


def report(records: Sequence[dict[str, Any]], picture: Path | None) -> str:
    """All tables of what there is, each under its name."""
    of = {batch: [record for record in records if record["batch"] == batch] for batch in BATCHES}
    parts = []
    if of["tune"]:
        parts += ["## Tuning", tables.tuning(of["tune"])]
    if of["test"]:
        parts += ["## Gains", tables.main_table(of["test"]), "## Differences", tables.differences(of["test"])]
        parts += ["## Beside gold", tables.side_effects(of["test"])]
        if picture is not None:
            tables.plot(of["test"], picture)
    if of["controls"]:
        plain = [one for one in of["test"] if one["seed"] in {other["seed"] for other in of["controls"]}]
        parts += [
            "## Controls",
            tables.main_table([*plain, *of["controls"]]),
            tables.side_effects([*plain, *of["controls"]]),
        ]
    if of["volume"]:
        parts += ["## Volume", tables.volumes(of["volume"])]
    return "\n\n".join(parts)


def _say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


def _line(record: dict[str, Any]) -> str:
    first, last = record["points"][0], record["points"][-1]
    found = f"gold {first['gold']:.3f} to {last['gold']:.3f}, KL {last['kl']:.2f}"
    return f"  {record['arm']} [{record['setting']}]: {found}, {record.get('stopped')}, {record['seconds']:.0f} s"


if __name__ == "__main__":
    main()
