"""What others wrote is printed as it is: it can neither style a terminal nor end a command."""

from __future__ import annotations

import io

from rich.console import Console

from deploy.feedback import show
from deploy.policy import _print_state

HOSTILE = "the tensor '[/red]' [bold]is[/bold] none"


def test_reasons_of_versions_and_refusals() -> None:
    version = {
        "version": "support@v1",
        "stage": "rejected",
        "since": 1,
        "parent": None,
        "kl_nats_per_sequence": 0.0,
        "reason": HOSTILE,
    }
    out = Console(file=io.StringIO(), width=300)
    state = {"policy": "support", "versions": [version], "serving": [], "refused": {"support@v2": HOSTILE}}
    _print_state(out, state)
    assert out.file.getvalue().count(HOSTILE) == 2  # type: ignore[attr-defined]


def test_the_fate_of_a_word() -> None:
    out = Console(file=io.StringIO(), width=300)
    fate = {
        "id": "fb_1",
        "kind": "thumbs",
        "policy": "support",
        "status": "excluded",
        "explanation": HOSTILE,
        "accepted": {"at": 1, "topic": "attune.feedback", "partition": 0, "offset": 0},
        "joined": None,
        "versions": [],
        "judged": [],
        "excluded": {"snapshot": "0" * 64, "reason": HOSTILE},
        "complete": True,
    }
    show(fate, out)
    assert out.file.getvalue().count(HOSTILE) == 2  # type: ignore[attr-defined]
