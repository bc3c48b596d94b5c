"""The report says whether each promise held, and can be read back as JSON."""

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from deploy.demo.ledger import Ledger
from deploy.demo.operator import PolicyView
from deploy.demo.report import Example, Report, VersionReport, show
from deploy.demo.screen import Screen

GOOD = Report(
    model="tiny",
    policy_version="support@v3",
    turns=3,
    turns_wanted=3,
    questions=300,
    gold_base=0.5,
    gold_policy=0.7,
    gold_gain=0.2,
    gold_gain_ci95=(0.15, 0.25),
    kl_to_base=3.0,
    kl_budget=10.0,
    requests_sent=1000,
    requests_failed=0,
    versions_served=["support@v0", "support@v3"],
    feedback_sent=510,
    feedback_acknowledged=500,
    feedback_failed=0,
    feedback_found=500,
    swap_seconds=0.4,
    rollback_seconds=0.1,
    seconds=400.0,
    versions=[VersionReport("support@v0", "retired", 0.5, 0.0, None)],
    examples=[Example("Where is [order]?", "rude [b]", "kind", 0.5, 1.0)],
)


def test_a_good_run_keeps_every_promise() -> None:
    assert GOOD.kept


@pytest.mark.parametrize(
    "change",
    [
        {"turns": 2},
        {"gold_gain_ci95": (-0.01, 0.3)},
        {"kl_to_base": 10.1},
        {"requests_failed": 1},
        {"feedback_found": 499},
        {"swap_seconds": 1.2},
        {"swap_seconds": None},
        {"rollback_seconds": 1.2},
        {"feedback_found": 0, "feedback_acknowledged": 0},
    ],
)
def test_each_promise_can_break_and_only_that_one(change: dict[str, object]) -> None:
    report = replace(GOOD, **change)  # type: ignore[arg-type]
    assert list(report.promises().values()).count(False) == 1
    assert not report.kept


def test_json_has_what_others_read(tmp_path: Path) -> None:
    GOOD.write(tmp_path / "deep" / "report.json")
    read = json.loads((tmp_path / "deep" / "report.json").read_text())
    wanted = "gold_base gold_policy gold_gain_ci95 kl_to_base kl_budget requests_sent requests_failed versions_served"
    assert set(wanted.split()) <= read.keys()
    assert {"feedback_sent", "feedback_found", "swap_seconds", "rollback_seconds"} <= read.keys()
    assert read["gold_gain_ci95"] == [0.15, 0.25]
    assert all(read["promises"].values())


def test_the_printed_report_shows_texts_as_they_are() -> None:
    out = io.StringIO()
    show(replace(GOOD, failures=["chat: 500"]), Console(file=out, width=140))
    text = out.getvalue()
    assert "Where is [order]?" in text  # brackets of an answer are no markup
    assert "rude [b]" in text
    assert "+0.200" in text
    assert "chat: 500" in text


def test_the_live_table_shows_versions_and_what_users_did() -> None:
    ledger = Ledger()
    ledger.answered("support@v1", 0.5)
    ledger.answered("support@v1", 0.7)
    versions = [
        {"version": "support@v0", "stage": "retired", "kl_nats_per_sequence": 0.0},
        {"version": "support@v1", "stage": "stable", "kl_nats_per_sequence": 1.25},
    ]
    policy = PolicyView.parse({"stable": "support@v1", "canary": None, "versions": versions, "serving": []})
    out = io.StringIO()
    console = Console(file=out, width=120)
    screen = Screen(console, ledger=ledger, policy=policy, kl_budget=10.0)
    console.print(screen._draw())
    assert "0.600" in out.getvalue()
    assert "1.25 (10)" in out.getvalue()
    with screen.live():
        screen.say("done")
    assert "done" in out.getvalue()


def test_a_turn_is_over_once_its_version_is_promoted_or_will_not_be() -> None:
    def view(stage: str, number: int = 1) -> bool:
        body = {"version": f"support@v{number}", "stage": stage, "kl_nats_per_sequence": 0.1}
        policy = PolicyView.parse({"stable": "support@v0", "canary": None, "versions": [body], "serving": []})
        return policy.versions[0].decided

    assert [stage for stage in ("reserved", "candidate", "canary") if view(stage)] == []
    assert all(view(stage) for stage in ("stable", "retired", "rejected", "rolled_back"))
    assert not view("stable", number=0)  # the base is nobody's turn
