"""Runs the study in batches; each run's record is a line in OUT/BASE/runs.jsonl, and what is there is not run again.

  python -m tests.bench.study --batch tune      settings on the development seeds
  python -m tests.bench.study --batch test      PPO, none, DPO, KTO on the test seeds, once
  python -m tests.bench.study --batch controls  the other arms on three of them
  python -m tests.bench.study --batch volume    100 to 10,000 words
  python -m tests.bench.study                   all of these, in this order
  python -m tests.bench.study --quick           one small world anew; its last line is one JSON object
  python -m tests.bench.study --write DOCS      what the records in OUT say, into DOCS/study.md and DOCS/study.png

Two such processes share the worlds between them. What the test seeds see is chosen by what the tuning found.
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

from deploy.demo.base import BaseOptions, base_digest, make_base
from tests.bench.study import tables
from tests.bench.study.arms import ARMS, run
from tests.bench.study.exam import Examiner
from tests.bench.study.plan import BATCHES, Job, jobs
from tests.bench.study.records import Records
from tests.bench.study.world import open_world
from trainer.gates.sample import load_tokenizer
from trainer.models.base import SharedBase

IN_ORDER = ("tune", "test", "controls", "volume")
RESULTS = "## Results\n"
"""Where the tables begin in the document; what stands below is written anew."""
_WAIT_S = 5.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", choices=sorted(BATCHES), action="append", help=f"default: {', '.join(IN_ORDER)}")
    parser.add_argument("--arm", action="append", help="only these arms of the batches")
    parser.add_argument("--out", type=Path, default=Path(".attune/study"), help="worlds and records")
    parser.add_argument("--bases", type=Path, default=Path(".attune/bases"), help="where the demo's base is or is made")
    parser.add_argument("--quick", action="store_true", help="one small world")
    parser.add_argument("--write", type=Path, metavar="DOCS", help="write tables and plot of what there is")
    asked = parser.parse_args()
    out = asked.out / base_digest(BaseOptions())  # what another base made is another study
    if asked.write:
        write(Records(out).all(), asked.write)
        return
    torch.set_num_threads(1)
    model = make_base(asked.bases, BaseOptions())
    base = SharedBase.load(model)
    if asked.quick:
        with tempfile.TemporaryDirectory() as folder:
            print(quick(base, model, Path(folder)))
        return
    records = Records(out)
    for batch in asked.batch or IN_ORDER:
        chosen = tables.best(record for record in records.all() if record["batch"] == "tune")
        todo = [job for job in jobs(batch, chosen) if asked.arm is None or job.arm in asked.arm]
        while not all(records.has(job) for job in todo):
            work(todo, base, model, out, records)
            time.sleep(_WAIT_S)  # for worlds that another process holds, or that it leaves when it dies


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
                gates_of = model if job.at_gates else None
                record = run(job.arm, job.setting, opened, base, examiner, before, gates_of=gates_of)
                records.add(job, record)
                _say(_line(record))


def quick(base: SharedBase, model: Path, folder: Path) -> str:
    """PPO, DPO and KTO on one small world; `ours` and `theirs` are gains in gold, of PPO and the better other one."""
    records = Records(folder)
    work(jobs("quick", {}), base, model, folder, records)
    arms = {record["arm"]: record for record in records.all()}
    gains = {arm: tables.gain(record) for arm, record in arms.items()}
    ours, theirs = gains["ppo"], max(gains["dpo"], gains["kto"])
    found = {"name": "study-quick", "ours": ours, "theirs": theirs, "ratio": None, "spread": None, "gains": gains}
    found["kl"] = {arm: record["points"][-1]["kl"] for arm, record in arms.items()}
    return f"{tables.main_table(arms.values())}\n{json.dumps(found)}"


def write(records: Sequence[dict[str, Any]], docs: Path) -> None:
    """Put the tables of what there is under `RESULTS` in DOCS/study.md, and the plot beside it."""
    page = docs / "study.md"
    head = page.read_text("utf-8").split(RESULTS)[0]
    page.write_text(f"{head}{RESULTS}\n{report(records)}\n", encoding="utf-8")
    tables.plot([record for record in records if record["batch"] == "test"], docs / "study.png")


def report(records: Sequence[dict[str, Any]]) -> str:
    """All tables of what there is, each under its name."""
    of = {batch: [record for record in records if record["batch"] == batch] for batch in BATCHES}
    parts = []
    if of["test"]:
        parts += ["### PPO, DPO and KTO", tables.main_table(of["test"]), tables.differences(of["test"])]
        parts += ["![gold against KL](study.png)", "### Beside gold", tables.side_effects(of["test"])]
    if of["controls"]:
        plain = [one for one in of["test"] if one["seed"] in {other["seed"] for other in of["controls"]}]
        some = [*plain, *of["controls"]]
        parts += ["### Controls and attacks", tables.main_table(some), tables.side_effects(some)]
        attacks = [arm for arm in tables.by_arm(some) if ARMS[arm].method == "ppo" and ARMS[arm].world]
        parts += ["### What noise and attacks cost PPO", tables.differences(some, "ppo", attacks)]
        parts += ["### At the gates", tables.at_gates([*of["test"], *of["controls"]])]
    if of["volume"]:
        parts += ["### Is my volume enough?", tables.volumes(of["volume"])]
    if of["tune"]:
        parts += ["### Settings that were tried", tables.tuning(of["tune"])]
    return "\n\n".join(parts)


def _say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


def _line(record: dict[str, Any]) -> str:
    first, last = record["points"][0], record["points"][-1]
    found = f"gold {first['gold']:.3f} to {last['gold']:.3f}, KL {last['kl']:.2f}"
    return f"  {record['arm']} [{record['setting']}]: {found}, {record.get('stopped')}, {record['seconds']:.0f} s"


if __name__ == "__main__":
    main()
