"""The records as tables (Markdown) and as one plot. Knows what the arms are for; computes with `statistics` alone."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from tests.bench.study.statistics import (
    BUDGETS,
    Interval,
    area,
    gold_within,
    paired,
    peak_minus_final,
)

Record = Mapping[str, Any]


def curve(record: Record) -> list[tuple[float, float]]:
    """(KL, gold) of a run's points."""
    return [(point["kl"], point["gold"]) for point in record["points"]]


def gain(record: Record) -> float:
    """Gold at its end less that of the base."""
    return float(record["points"][-1]["gold"] - record["points"][0]["gold"])


def by_arm(records: Iterable[Record]) -> dict[str, dict[int, Record]]:
    """Records by arm and seed."""
    found: dict[str, dict[int, Record]] = defaultdict(dict)
    for record in records:
        found[record["arm"]][record["seed"]] = record
    return dict(found)


def best(records: Iterable[Record]) -> dict[str, str]:
    """Of each arm the setting with the largest mean area; all settings must have been tried on the same seeds."""
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        found[record["arm"]][record["setting"]].append(area(curve(record)))
    return {arm: max(settings, key=lambda name: fmean(settings[name])) for arm, settings in found.items()}


def tuning(records: Iterable[Record]) -> str:
    """Every setting that was tried, by what it was chosen for: the area under gold over the budgets."""
    groups: dict[tuple[str, str], list[Record]] = defaultdict(list)
    for record in records:
        groups[record["arm"], record["setting"]].append(record)
    rows = []
    for (arm, setting), some in sorted(groups.items(), key=lambda item: (item[0][0], -fmean(_areas(item[1])))):
        ends = f"{fmean(map(gain, some)):+.3f}", f"{fmean(one['points'][-1]['kl'] for one in some):.2f}"
        rows.append((arm, setting, f"{fmean(_areas(some)):+.3f}", *ends, str(len(some))))
    return markdown(("arm", "setting", "area", "gain at its end", "KL at its end, nats", "seeds"), rows)


def main_table(records: Iterable[Record]) -> str:
    """Gain over the base at the end and within each budget, mean over seeds with its interval."""
    rows = []
    for arm, seeds in by_arm(records).items():
        some = list(seeds.values())
        within = [
            paired([gold_within(curve(one), budget) - one["points"][0]["gold"] for one in some]) for budget in BUDGETS
        ]
        rows.append(
            (
                arm,
                str(len(some)),
                str(paired([gain(one) for one in some])),
                f"{fmean(one['points'][-1]['kl'] for one in some):.2f}",
                *map(str, within),
                str(paired(_areas(some))),
            )
        )
    heads = (
        "arm",
        "seeds",
        "gain at its end",
        "KL there, nats",
        *(f"gain within {budget:g} nats" for budget in BUDGETS),
        "area",
    )
    return markdown(heads, rows)


def differences(records: Iterable[Record], ours: str = "ppo", theirs: Sequence[str] = ("none", "dpo", "kto")) -> str:
    """`ours` less each of `theirs`, paired by seed."""
    arms = by_arm(records)
    rows = []
    for other in theirs:
        shared = sorted(arms.get(ours, {}).keys() & arms.get(other, {}).keys())
        if not shared:
            continue
        rows.append(
            (f"{ours} less {other}", *(str(one) for one in compared(arms, ours, other, shared)), str(len(shared)))
        )
    heads = ("", "at their ends", *(f"within {budget:g} nats" for budget in BUDGETS), "area", "seeds")
    return markdown(heads, rows)


def compared(arms: Mapping[str, Mapping[int, Record]], ours: str, other: str, seeds: Sequence[int]) -> list[Interval]:
    """Differences in gold at the ends, within each budget, and in area."""
    measures: list[Callable[[Record], float]] = [
        lambda one: one["points"][-1]["gold"],
        *(lambda one, budget=budget: gold_within(curve(one), budget) for budget in BUDGETS),
        lambda one: area(curve(one)),
    ]
    return [paired([measure(arms[ours][s]) - measure(arms[other][s]) for s in seeds]) for measure in measures]


def side_effects(records: Iterable[Record]) -> str:
    """What a mean of gold does not show."""
    rows = []
    for arm, seeds in by_arm(records).items():
        some = list(seeds.values())
        groups = {
            name: paired([_moved(one, lambda point, name=name: point["groups"][name]) for one in some])
            for name in some[0]["points"][0]["groups"]
        }
        worst = min(groups, key=lambda name: groups[name].mean)
        rows.append(
            (
                arm,
                f"{worst} {groups[worst]}",
                f"{fmean(_moved(one, lambda point: point['proxy']) for one in some):+.2f}",
                f"{fmean(peak_minus_final(curve(one)) for one in some):.3f}",
                f"{fmean(one['points'][-1]['words'] for one in some):.1f}",
                f"{fmean(one['points'][-1]['leaks'] for one in some):.3f}",
            )
        )
    heads = ("arm", "worst taste, its change in utility", "proxy, deviations", "peak less end", "words", "leaks")
    return markdown(heads, rows)


def at_gates(records: Iterable[Record]) -> str:
    """What the trainer's gates said, and what people would have got: the gain of what passed, else none."""
    rows = []
    for arm, seeds in by_arm(records).items():
        some = [one for one in seeds.values() if "gates" in one]
        if not some:
            continue
        refusals = Counter(name for one in some for name in one["gates"]["refused_by"])
        rows.append(
            (
                arm,
                f"{sum(one['gates']['passed'] for one in some)} of {len(some)}",
                ", ".join(f"{name} {count}" for name, count in refusals.most_common()),
                str(paired([gain(one) if one["gates"]["passed"] else 0.0 for one in some])),
                f"{fmean(one['world'].get('quarantined', 0) for one in some):.1f}",
            )
        )
    return markdown(("arm", "passed", "refused by", "gain of what is served", "accounts in quarantine"), rows)


def volumes(records: Iterable[Record]) -> str:
    """Gain at the end by words of feedback; of attacked worlds also how many accounts were quarantined."""
    found: dict[int, list[Record]] = defaultdict(list)
    for record in records:
        found[record["words"]].append(record)
    arms = sorted({record["arm"] for some in found.values() for record in some})
    rows = []
    for words, some in sorted(found.items()):
        cells = []
        for arm in arms:
            own = [one for one in some if one["arm"] == arm]
            kl = fmean(one["points"][-1]["kl"] for one in own) if own else 0.0
            caught = fmean(one["world"].get("quarantined_attackers", 0) for one in own) if own else 0.0
            told = f", {caught:.1f} attackers in quarantine" if any(one.get("attack") for one in own) else ""
            cells.append(f"{paired([gain(one) for one in own])} at {kl:.2f}{told}" if own else "")
        accuracy = fmean(one["world"].get("reward_accuracy_pairs", float("nan")) for one in some)
        seeds = str(len({one["seed"] for one in some}))
        rows.append((f"{words:,}", seeds, f"{words / 0.03:,.0f} to {words / 0.01:,.0f}", f"{accuracy:.2f}", *cells))
    return markdown(
        (
            "words",
            "seeds",
            "chats at 3 to 1 % clicks",
            "reward model, held-out pairs",
            *(f"{arm}: gain, at KL" for arm in arms),
        ),
        rows,
    )


def plot(records: Iterable[Record], path: Path) -> None:
    """Mean gain in gold against KL, each arm along its run."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5, 3.6), dpi=90, layout="constrained")
    axes = figure.subplots()
    for arm, seeds in by_arm(records).items():
        some = [curve(one) for one in seeds.values() if len(one["points"]) > 1]
        if not some:
            continue
        steps = min(map(len, some))
        kl = [fmean(one[place][0] for one in some) for place in range(steps)]
        gold = [fmean(one[place][1] - one[0][1] for one in some) for place in range(steps)]
        axes.plot(kl, gold, marker="o", markersize=3, label=arm)
    axes.set_xlabel("KL to the base, nats per sequence")
    axes.set_ylabel("gain in gold")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(path, metadata={"Software": None})


def markdown(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table."""
    return "\n".join(f"| {' | '.join(row)} |" for row in (heads, ["---"] * len(heads), *rows))


def _areas(records: Iterable[Record]) -> list[float]:
    return [area(curve(one)) for one in records]


def _moved(record: Record, figure: Callable[[Mapping[str, Any]], float]) -> float:
    return figure(record["points"][-1]) - figure(record["points"][0])
