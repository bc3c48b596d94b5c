"""What people of opposed tastes make of the same base, and what is left of it when their verdicts are dealt at random.

Runs `attune demo` for each taste and for shuffled verdicts, over several seeds, one after the other, and prints the
table of docs/demo.md. Reports that lie in the folder already are taken as they are, so an interrupted series goes on.
`ours` is the smallest lower end of the intervals of the tastes' gains, `theirs` the largest gain of the shuffled runs,
both in gold (0 to 1); `ratio` does not apply. Prints one JSON object as its last line.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ARMS = {"brief": ("--taste", "brief"), "warm": ("--taste", "warm"), "shuffle": ("--shuffle",)}
HEAD = (
    "users",
    "seed",
    "gold of base, policy",
    "gain (95 % interval)",
    "the same in the eyes of brief, warm",
    "diversity of base, policy",
    "best constant",
    "KL, nats",
    "what became of the versions",
    "chats, failed",
    "feedback, found",
    "seconds",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3, help="of each arm, from 1")
    parser.add_argument("--turns", type=int, default=2, help="of the loop in each run")
    parser.add_argument("--reports", type=Path, default=Path(".attune/tastes"), help="where the reports lie")
    asked = parser.parse_args()
    asked.reports.mkdir(parents=True, exist_ok=True)
    found: list[tuple[str, int, dict[str, Any]]] = []
    for seed in range(1, asked.seeds + 1):
        for arm, flags in ARMS.items():
            path = asked.reports / f"{arm}-{seed}.json"
            if not path.exists():
                print(f"{arm}, seed {seed}", file=sys.stderr, flush=True)
                run(path, [*flags, "--seed", str(seed), "--turns", str(asked.turns)])
            found.append((arm, seed, json.loads(path.read_text(encoding="utf-8"))))
    found.sort(key=lambda one: list(ARMS).index(one[0]))
    print(table(found))
    print(json.dumps(summary([(arm, report) for arm, _, report in found])))


def run(report: Path, flags: list[str]) -> None:
    """One demo; a promise that it did not keep is for the table to show, a demo that broke off ends the series."""
    command = [sys.executable, "-m", "deploy.cli", "demo", *flags, "--report", str(report.absolute())]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if not report.exists():
        raise SystemExit(f"the demo broke off:\n{done.stdout[-2_000:]}")


def table(found: list[tuple[str, int, dict[str, Any]]]) -> str:
    """A Markdown table of the reports."""
    lines = [HEAD, ("---",) * len(HEAD), *(_row(arm, seed, report) for arm, seed, report in found)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def summary(found: list[tuple[str, dict[str, Any]]]) -> dict[str, Any]:
    """What the series shows, in one object."""
    tastes = [report for arm, report in found if arm != "shuffle"]
    dealt = [report for arm, report in found if arm == "shuffle"]
    return {
        "name": "tastes",
        "ours": min(report["gold_gain_ci95"][0] for report in tastes),
        "theirs": max(report["gold_gain"] for report in dealt),
        "ratio": None,
        "spread": [min(r["gold_gain"] for r in tastes), max(r["gold_gain"] for r in tastes)],
        "gains_exclude_zero": all(report["gold_gain_ci95"][0] > 0 for report in tastes),
        "shuffled_gains_include_zero": all(r["gold_gain_ci95"][0] <= 0 <= r["gold_gain_ci95"][1] for r in dealt),
        "most_seconds": max(report["seconds"] for _, report in found),
        "promises_broken": sorted({name for _, r in found for name, kept in r["promises"].items() if not kept}),
    }


def _row(arm: str, seed: int, report: dict[str, Any]) -> tuple[str, ...]:
    low, high = report["gold_gain_ci95"]
    eyes = [report["gold_by_taste"][name]["gain"] for name in ("brief", "warm")]
    stages = [f"v{number} {version['stage']}" for number, version in enumerate(report["versions"]) if number]
    return (
        arm,
        str(seed),
        f"{report['gold_base']:.3f}, {report['gold_policy']:.3f}",
        f"{report['gold_gain']:+.3f} ({low:+.3f} to {high:+.3f})",
        ", ".join(f"{gain:+.3f}" for gain in eyes),
        ", ".join(f"{report[which]['distinct']:.0%}" for which in ("diversity_base", "diversity_policy")),
        f"{report['best_constant']['gold']:.3f}",
        f"{report['kl_to_base']:.2f}",
        ", ".join(stages).replace("rolled_back", "taken back"),
        f"{report['requests_sent']:,}, {report['requests_failed']}",
        f"{report['feedback_acknowledged']:,}, {report['feedback_found']:,}",
        f"{report['seconds']:.0f}",
    )


if __name__ == "__main__":
    main()
