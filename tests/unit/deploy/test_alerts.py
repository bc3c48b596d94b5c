"""The alert rules speak only of metrics, labels and reasons that exist."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry

import deploy
from server.metrics import ServerMetrics
from trainer.joining.exclusions import Reason
from trainer.metrics import TrainerMetrics

FILE = Path(deploy.__file__).parent / "prometheus" / "alerts.yml"


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load(FILE.read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def exposed() -> Iterator[tuple[str, tuple[str, ...]]]:
    """Every metric's sample name and label names."""
    server = CollectorRegistry()
    ServerMetrics(server)
    for registry in (server, TrainerMetrics().registry):
        for collector in registry._collector_to_names:
            for metric in collector.describe():
                suffix = "_total" if metric.type == "counter" else ""
                yield metric.name + suffix, collector._labelnames  # type: ignore[attr-defined]


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_a_rule_names_only_what_is_there(rule: dict[str, Any]) -> None:
    assert set(rule) == {"alert", "expr", "for", "labels", "annotations"}
    assert set(rule["annotations"]) == {"summary", "description"}
    metrics = dict(exposed())
    found = re.findall(r"(attune_\w+)(?:\{(\w+)(?:=|!=)\"(\w+)\"\})?", rule["expr"])
    assert found
    for name, label, value in found:
        assert name in metrics
        assert not label or label in metrics[name]
        if label == "reason" and name.startswith("attune_trainer"):
            assert value in set(Reason)
    for name in re.findall(r"attune_\w+", rule["annotations"]["description"]):
        assert name in metrics


def test_the_runbooks_that_alerts_name_are_there() -> None:
    named = {page for rule in rules() for page in re.findall(r"docs/runbooks/[\w-]+\.md", str(rule["annotations"]))}
    assert {page for page in named if not (FILE.parents[2] / page).is_file()} == set()
    assert "docs/runbooks/trainer-behind.md" in named


def test_starvation_is_watched() -> None:
    assert "attune_trainer_ppo_starved" in " ".join(rule["expr"] for rule in rules())


def test_what_an_alert_says_to_read_is_there() -> None:
    pages = re.findall(r"docs/\S+\.md", " ".join(rule["annotations"]["description"] for rule in rules()))
    assert len(pages) >= 8
    for page in pages:
        assert (FILE.parents[2] / page).is_file(), page


def test_every_metric_of_the_way_to_the_log_has_a_page_and_the_pages_speak_of_no_other() -> None:
    pages = " ".join(page.read_text(encoding="utf-8") for page in (FILE.parents[2] / "docs" / "runbooks").glob("*.md"))
    of_the_way = r"attune_(?:log_(?!records_expired)|spool_|events_|dead_letters|recorder_)[a-z_]*"
    metrics = [name for name, _ in exposed() if re.fullmatch(of_the_way, name)]
    assert sorted(set(re.findall(f"`({of_the_way})`", pages))) == sorted(metrics)
