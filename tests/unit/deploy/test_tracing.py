"""`attune feedback trace` and `attune policy explain`: what a person reads at the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from deploy.cli import app
from deploy.client import AttuneClient
from exchange.open import open_log, open_registry
from schemas.errors import NotFound
from schemas.wire import encode_event
from tests.factories import Maker
from tests.unit.server.control.world import publish
from tests.unit.trainer.data.support import SCOPE, ledger_of
from trainer.snapshots.selection import SnapshotSettings
from trainer.snapshots.snapshot import cut_snapshot

GATE = {
    "name": "kl_budget",
    "passed": False,
    "value": 7.5,
    "threshold": 6.0,
    "unit": "nats",
    "explanation": "over the budget [of 6]",
}
FEEDBACK = {
    "watermark": 1,
    "feedback_window_ms": 60_000,
    "rows": {"words": 7, "pairs": 2},
    "by_kind": {"thumbs": 5, "comparison": 2},
    "by_source": {"user": 7},
    "by_language": {"en": 7},
    "by_domain": {},
    "answers_by_version": {"support@v1": 12},
    "funnel": {"answered": 40, "displayed": 0, "rated": 9, "joined": 8, "reward_model": 7, "ppo": 12},
    "excluded": {"feedback.late": 2, "answer.temperature_zero": 28},
    "reasons": {"late": "it came too late", "temperature_zero": "decoded greedily"},
    "agreement": {
        "thumbs": {"alpha": 0.625, "items": 3, "people": 5, "judgements": 9},
        "pairs": {"alpha": None, "items": 0, "people": 0, "judgements": 0},
    },
}
MADE: dict[str, Any] = {
    "version": "support@v2",
    "parent": "support@v1",
    "created_at": 1,
    "digest": "d" * 64,
    "base_fingerprint": "b" * 64,
    "snapshot": "5" * 64,
    "feedback": FEEDBACK,
    "reward_model": "e" * 64,
    "gates": [GATE],
    "kl_nats_per_sequence": 1.5,
    "kl_budget_nats_per_sequence": 6.0,
    "examples": [{"name": "add", "question": "17 + 25?", "before": "[b]no idea", "after": "42"}],
    "metrics": {"steps": 3.0},
    "recipe": {"ppo": {"clip": 0.2}},
    "code_version": "0.1.0+gabc",
    "seed": 7,
}
MADE["guidance"] = [{"kind": "guidelines", "version": 2, "digest": "ab" * 32, "since": 5}]
TOLD = {"version": "support@v2", "stage": "canary", "since": 1, "reason": "passed 7 gates", "made": MADE}


def run(*words: str) -> str:
    result = CliRunner().invoke(app, list(words), env={"COLUMNS": "200"}, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_a_version_is_explained_in_one_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str]] = []

    def explain(self: AttuneClient, name: str, version: str) -> dict[str, Any]:
        asked.append((name, version))
        return TOLD

    monkeypatch.setattr(AttuneClient, "explain", explain)
    said = run("policy", "explain", "support@v2", "--recipe")
    assert asked == [("support", "v2")]
    for words in (
        "support@v2 is canary: passed 7 gates",
        "5" * 64,
        "e" * 64,
        "guidelines support@v2 (abababababab)",
        "1.500 of 6 nats per sequence",
        "0.1.0+gabc, seed 7",
        "7 words",
        "5 thumbs, 2 comparison",
        "7 user",
        "40 answered, 0 displayed, 9 rated, 8 joined, 7 reward_model, 12 ppo",
        "28 answer: decoded greedily",
        "agreement on thumbs alpha 0.62 (3 shared by 5 people, 9 judgements)",
        "agreement on pairs not measurable (nothing was judged by more than one person)",
        "over the budget [of 6]",
        "7.500",
        "[b]no idea",
        '"clip": 0.2',
    ):
        assert words in said, words
    assert "clip" not in run("policy", "explain", "support@v2")


def test_what_was_never_published_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    rejected = {"version": "support@v3", "stage": "rejected", "since": 1, "reason": "gates: KL over", "made": None}
    monkeypatch.setattr(AttuneClient, "explain", lambda *_: rejected)
    said = run("policy", "explain", "support@v3")
    assert "support@v3 is rejected: gates: KL over" in said
    assert "never published" in said


def test_a_word_is_traced_without_a_server(tmp_path: Path) -> None:
    make = Maker()
    answer, other = make.completion(0), make.completion(1, user="bob")
    events = [
        answer,
        other,
        make.thumb(answer, id="fb-good"),
        make.thumb(other, at=50_000, id="fb-late", user="bob"),
        make.completion(90_000),
    ]
    config = tmp_path / "trainer.toml"
    config.write_text('model = "none"\nlog = "sqlite:///log.db"\nregistry = "file:registry"\n', encoding="utf-8")
    with open_log(f"sqlite:///{tmp_path / 'log.db'}") as log:
        log.append([encode_event(event) for event in events])
        settings = SnapshotSettings(feedback_window_ms=10_000, heldout_users=0.0, heldout_time=0.0)
        with ledger_of(log) as ledger:
            manifest = cut_snapshot(ledger, SCOPE, settings, tmp_path / "cut").manifest
    registry = open_registry(f"file://{tmp_path / 'registry'}")
    registry.publish_snapshot(tmp_path / "cut", manifest)
    publish(registry, tmp_path, 1, snapshot=manifest.digest)
    said = run("feedback", "trace", "fb-good", "-c", str(config))
    for words in ("thumbs on support", "attune.feedback/", manifest.digest[:12], "in_version: It taught support@v1."):
        assert words in said, words
    said = run("feedback", "trace", "fb-late", "-c", str(config))
    assert "excluded: It is left out: it came after the feedback window of its answer." in said
    with pytest.raises(NotFound):
        run("feedback", "trace", "fb-none", "-c", str(config))


def test_a_word_is_traced_by_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    fate = {
        "id": "fb_1",
        "policy": "support",
        "kind": "thumbs",
        "status": "waiting",
        "explanation": "It waits.",
        "accepted": {"at": 1_790_000_000_000, "topic": "attune.feedback", "partition": 3, "offset": 8},
        "joined": None,
        "excluded": None,
        "versions": [],
        "judged": [],
        "complete": False,
    }
    monkeypatch.setattr(AttuneClient, "fate", lambda self, name: fate | {"id": name})
    said = run("feedback", "trace", "fb_9")
    assert "fb_9" in said
    assert "attune.feedback/3 at offset 8" in said
    assert "waiting: It waits." in said
    assert "could not be looked at" in said
