"""The model card of one version of a policy: where it came from, what it changed, how to take it back.

Knows what the registry holds of a version; knows no registry and draws nothing itself.
"""

from __future__ import annotations

import json

from schemas.explanations import CardFacts, FeedbackUsed, VersionExplained
from trainer.cards.markdown import counts, figure, front_matter, quoted, table, text
from trainer.cards.pictures import POLICY_PANELS, has_curves

CURVES_PICTURE = "curves.png"


def version_card(facts: CardFacts, *, stage: str, reason: str, base_model: str | None = None) -> str:
    """README.md of a version.

    Args:
        stage: as the journal has it now.
        reason: why it is in that stage.
        base_model: its name on the Hub, where it has one. Attune itself knows the base by its fingerprint.
    """
    made = facts.explained
    parts = [
        front_matter(base_model=base_model, tags=("lora", "attune", "text-generation"), relation="adapter"),
        f"# {made.version}\n",
        f"A LoRA adapter that Attune trained on people's feedback. It is **{text(stage)}**: {text(reason) or '-'}\n",
        _facts(made),
        "## What it learnt from\n",
        _feedback(made.feedback),
        "## Gates\n",
        "What it had to keep to before anybody was served by it.\n",
        table(
            ("gate", "", "value", "limit", "in words"),
            (
                (
                    text(gate.name),
                    "passed" if gate.passed else "**failed**",
                    figure(gate.value),
                    figure(gate.threshold),
                    text(gate.explanation),
                )
                for gate in made.gates
            ),
        ),
        "## Training\n",
        _training(facts),
        "## Before and after\n",
        _examples(made),
        "## Limits\n",
        _LIMITS,
        "## How to take it back\n",
        _take_back(made),
        "## Recipe\n",
        quoted(json.dumps(made.recipe, indent=2, sort_keys=True)),
    ]
    return "\n".join(parts)


_LIMITS = (
    "It says what the people who gave feedback liked, on the questions that they asked. Reward and gates are measured "
    "on held-out people of the same crowd: nothing here shows how it does elsewhere. Examples are answers to curated "
    "questions, never to people's.\n"
)


def _facts(made: VersionExplained) -> str:
    rows = [
        ("continues from", text(made.parent)),
        ("adapter (sha-256 of its files)", f"`{made.digest}`"),
        ("base model (fingerprint)", f"`{made.base_fingerprint}`"),
        ("snapshot", f"`{made.snapshot}`"),
        ("reward model", f"`{made.reward_model}`"),
        *((f"{one.kind} in force, version {one.version}", f"`{one.digest}`") for one in made.guidance),
        (
            "KL to the frozen base, over all versions so far",
            f"{made.kl_nats_per_sequence:.3f} of {made.kl_budget_nats_per_sequence:g} nats per sequence",
        ),
        ("code, seed", f"{text(made.code_version)}, {made.seed}"),
    ]
    return table(("", ""), rows)


def _feedback(used: FeedbackUsed | None) -> str:
    if used is None:
        return "Its snapshot is not in the registry any more.\n"
    rows = [
        ("rows", counts(used.rows)),
        ("words by kind", counts(used.by_kind)),
        ("words by who speaks", counts(used.by_source)),
        ("words by language", counts(used.by_language)),
        ("words by domain", counts(used.by_domain)),
        ("answers by version", counts(used.answers_by_version)),
        ("left out", counts(used.excluded)),
        *((f"agreement of people on {name}", text(found.in_words())) for name, found in used.agreement.items()),
    ]
    return table(("", ""), rows)


def _training(facts: CardFacts) -> str:
    method = facts.explained.recipe.get("learner")
    name = method.get("method") if isinstance(method, dict) else None
    words = f"Method: {text(str(name))}.\n\n" if name else ""
    if facts.curves is not None and has_curves(facts.curves, POLICY_PANELS):
        words += f"![Curves of its training]({CURVES_PICTURE})\n\n"
    return words + table(
        ("figure", "value"), ((text(n), figure(x)) for n, x in sorted(facts.explained.metrics.items()))
    )


def _examples(made: VersionExplained) -> str:
    if not made.examples:
        return "No curated question was answered otherwise.\n"
    parts = []
    for example in made.examples:
        parts += [
            f"**{text(example.name)}**\n",
            quoted(example.question),
            f"{text(made.parent)}:\n",
            quoted(example.before),
            f"{text(made.version)}:\n",
            quoted(example.after),
        ]
    return "\n".join(parts)


def _take_back(made: VersionExplained) -> str:
    return (
        f"`attune policy rollback {made.version} -m 'why'` takes it back on every replica within seconds, while it "
        f"is canary or stable; `attune policy promote {made.parent}` makes its parent the stable one. Requests that "
        "began on it end on it.\n"
    )
