"""The report says whether each promise held, and can be read back as JSON."""

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from deploy.demo.evaluate import Gain
from deploy.demo.ledger import Ledger
from deploy.demo.operator import PolicyView
from deploy.demo.printed import show
from deploy.demo.report import Example, GoldByTaste, Report, SabotageReport, VersionReport
from deploy.demo.screen import Screen
from deploy.demo.trace import Trace
from deploy.demo.variety import Constant, Diversity

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

HARM = SabotageReport(
    words=710,
    version="support@v4",
    reason="",
    opened_gates=["red_team"],
    kl=4.0,
    gold_before=0.7,
    gold_served=0.4,
    gold_after=0.69,
    fall=Gain(-0.3, -0.35, -0.25),
    recovery=Gain(0.29, 0.24, 0.34),
    rollback_seconds=0.2,
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


def test_shuffled_labels_promise_no_gain_and_no_version() -> None:
    found = replace(
        GOOD,
        shuffled=True,
        policy_version="support@v0",
        gold_gain_ci95=(0.0, 0.0),
        swap_seconds=None,
        rollback_seconds=None,
    )
    assert found.kept
    assert not replace(found, swap_seconds=1.2).kept  # what was measured still counts
    assert not replace(found, requests_failed=1).kept
    assert "the base still serves" in printed(found)
    assert "cannot be told from zero" in printed(replace(found, policy_version="support@v2"))
    learnt = replace(found, policy_version="support@v2", gold_gain_ci95=(0.01, 0.1))
    assert "learnt from noise" in printed(learnt)


def test_a_sabotage_must_do_harm_that_is_undone_unless_the_gates_refuse_it() -> None:
    assert replace(GOOD, sabotage=HARM).kept
    assert not replace(GOOD, sabotage=replace(HARM, fall=Gain(-0.1, -0.2, 0.01))).kept
    assert not replace(GOOD, sabotage=replace(HARM, recovery=Gain(0.1, -0.01, 0.2))).kept
    refused = replace(
        HARM, reason="the gates refused [it]", gold_served=None, gold_after=None, fall=None, recovery=None
    )
    assert replace(GOOD, sabotage=refused).kept
    assert "nothing was promoted: the gates refused [it]" in printed(replace(GOOD, sabotage=refused))
    assert not replace(GOOD, sabotage=replace(refused, version=None)).kept  # nothing was shown at all
    assert "0.700, then 0.400 with support@v4, then 0.690" in printed(replace(GOOD, sabotage=HARM))


def test_the_new_figures_are_in_the_json_and_on_the_terminal() -> None:
    fate = {
        "id": "fb_1",
        "kind": "thumbs",
        "policy": "support",
        "status": "in_version",
        "explanation": "It taught support@v3.",
        "accepted": {"topic": "attune.feedback", "partition": 0, "offset": 7, "at": 1},
        "joined": None,
        "excluded": None,
        "versions": ["support@v3"],
        "judged": [],
        "complete": True,
    }
    found = replace(
        GOOD,
        taste="brief",
        gold_by_taste={"warm": GoldByTaste(0.5, 0.45, -0.05, (-0.09, -0.01))},
        best_constant=Constant("You can follow it.", 0.125),
        diversity_base=Diversity(0.9, 0.8, 0.7),
        diversity_policy=Diversity(0.6, 0.5, 0.4),
        trace=Trace("fb_1", "Where is [order]?", "On its way.", "support@v2", "down", fate),
        sabotage=HARM,
    )
    read = json.loads(json.dumps(found.to_json()))
    assert (read["taste"], read["shuffled"]) == ("brief", False)
    assert read["gold_by_taste"]["warm"]["gain_ci95"] == [-0.09, -0.01]
    assert read["best_constant"] == {"text": "You can follow it.", "gold": 0.125}
    assert read["diversity_policy"] == {"distinct": 0.6, "distance": 0.5, "distinct_2": 0.4}
    assert read["trace"]["fate"]["versions"] == ["support@v3"]
    assert read["sabotage"]["fall"] == {"mean": -0.3, "low": -0.35, "high": -0.25}
    text = printed(found)
    for shown in ("taste brief", "0.125", "60% distinct", "-0.050", "down on an answer of support@v2", "It taught"):
        assert shown in text


def test_json_has_what_others_read(tmp_path: Path) -> None:
    GOOD.write(tmp_path / "deep" / "report.json")
    read = json.loads((tmp_path / "deep" / "report.json").read_text())
    wanted = "gold_base gold_policy gold_gain_ci95 kl_to_base kl_budget requests_sent requests_failed versions_served"
    assert set(wanted.split()) <= read.keys()
    assert {"feedback_sent", "feedback_found", "swap_seconds", "rollback_seconds"} <= read.keys()
    assert read["gold_gain_ci95"] == [0.15, 0.25]
    assert all(read["promises"].values())


def test_the_printed_report_shows_texts_as_they_are() -> None:
    text = printed(replace(GOOD, failures=["chat: 500"]))
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


def printed(report: Report) -> str:
    out = io.StringIO()
    show(report, Console(file=out, width=140))
    return out.getvalue()
