"""The few pieces of Markdown that cards are made of. What people or models wrote is quoted so that it stays text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from huggingface_hub import ModelCardData

_SPECIAL = re.compile(r"([\\`*_{}\[\]#|~$!])")
_LONG = 2000


def front_matter(*, base_model: str | None, tags: Sequence[str], relation: str | None = None) -> str:
    """YAML between its two lines. No licence is named: nobody here knows it.

    Args:
        base_model: a name on the Hub; None leaves it out.
        relation: of the model to its base, as the Hub names it (`adapter`).
    """
    about = ModelCardData(
        base_model=base_model,
        base_model_relation=relation if base_model else None,
        library_name="peft",
        tags=list(tags),
    )
    return f"---\n{about.to_yaml()}\n---\n"


def text(words: str) -> str:
    """Words as one line of plain text: no markup, no HTML, no links."""
    flat = " ".join(words.split())
    safe = flat.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _SPECIAL.sub(r"\\\1", safe)


def quoted(words: str) -> str:
    """Words of many lines in a fence that they cannot close."""
    longest = max((len(run) for run in re.findall(r"`+", words)), default=0)
    fence = "`" * max(3, longest + 1)
    cut = words if len(words) <= _LONG else f"{words[:_LONG]} [...]"
    return f"{fence}text\n{cut}\n{fence}\n"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of cells that are Markdown already."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def figure(value: float | None) -> str:
    """A number in a table: four significant digits."""
    return "-" if value is None else f"{value:.4g}"


def counts(found: Mapping[str, int]) -> str:
    """`3 thumbs, 2 pairs`; a dash for nothing."""
    return ", ".join(f"{count} {text(name)}" for name, count in sorted(found.items())) or "-"
