"""How `attune policy explain` shows where a version came from. Knows the answer's shape and terminals, nothing else."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from schemas.manifests import Agreement

_STAGES = ("answered", "displayed", "rated", "joined", "reward_model", "ppo")


def show(told: Mapping[str, Any], console: Console, *, recipe: bool) -> None:
    """A version's story: lineage, feedback, gates, examples; the recipe's settings as well where asked for."""
    console.print(f"[b]{told['version']}[/b] is {told['stage']}: {escape(told['reason'] or 'no reason given')}")
    made = told["made"]
    if made is None:
        console.print("It has no adapter in the registry: it is the base, or it was never published.")
        return
    facts = Table.grid(padding=(0, 2))
    for name, value in (
        ("parent", made["parent"]),
        ("snapshot", made["snapshot"]),
        ("reward model", made["reward_model"]),
        ("adapter", made["digest"]),
        (
            "KL to the base",
            f"{made['kl_nats_per_sequence']:.3f} of {made['kl_budget_nats_per_sequence']:g} nats per sequence",
        ),
        ("guidance", _guidance(told["version"], made.get("guidance", ()))),
        ("code", f"{made['code_version']}, seed {made['seed']}"),
    ):
        facts.add_row(f"[dim]{name}[/dim]", escape(str(value)))
    console.print(facts)
    if made["feedback"] is None:
        console.print("Its snapshot is not in the registry any more.")
    else:
        _feedback(made["feedback"], console)
    gates = Table("gate", "", "value", "limit", "in words", title="Gates")
    for gate in made["gates"]:
        verdict = "[green]passed[/green]" if gate["passed"] else "[red]failed[/red]"
        gates.add_row(
            gate["name"], verdict, _figure(gate["value"]), _figure(gate["threshold"]), escape(gate["explanation"])
        )
    console.print(gates)
    if made["examples"]:
        examples = Table("question", made["parent"], told["version"], title="Before and after", show_lines=True)
        for example in made["examples"]:
            examples.add_row(*(escape(example[name]) for name in ("question", "before", "after")))
        console.print(examples)
    if recipe:
        console.print_json(json.dumps({"recipe": made["recipe"], "metrics": made["metrics"]}))


def _feedback(feedback: Mapping[str, Any], console: Console) -> None:
    console.print(f"[b]Feedback[/b]: {feedback['rows'].get('words', 0)} words")
    for name in ("by_kind", "by_source", "by_language", "by_domain"):
        if feedback[name]:
            _counts(console, name.replace("_", " "), feedback[name])
    _counts(console, "answers by version", feedback["answers_by_version"])
    funnel = {stage: feedback["funnel"][stage] for stage in _STAGES if stage in feedback["funnel"]}
    if funnel:
        _counts(console, "funnel", funnel)
    for name, found in feedback.get("agreement", {}).items():
        words = Agreement.model_validate(found).in_words()
        console.print(f"  [dim]agreement on {escape(name)}[/dim] {words}", highlight=False, soft_wrap=True)
    for name, count in sorted(feedback["excluded"].items(), key=lambda item: -item[1]):
        item, _, reason = name.partition(".")
        words = feedback["reasons"].get(reason, reason)
        console.print(f"  [dim]left out[/dim] {count} {item}: {escape(words)}", highlight=False, soft_wrap=True)


def _guidance(version: str, guidance: Sequence[Mapping[str, Any]]) -> str:
    policy = version.partition("@")[0]
    named = (f"{one['kind']} {policy}@v{one['version']} ({one['digest'][:12]})" for one in guidance)
    return ", ".join(named) or "none was published"


def _counts(console: Console, name: str, counts: Mapping[str, int]) -> None:
    said = ", ".join(f"{count} {escape(key)}" for key, count in counts.items())
    console.print(f"  [dim]{name}[/dim] {said}", highlight=False, soft_wrap=True)


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
