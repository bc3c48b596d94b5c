"""A base whose generation_config.json says top_p 0.8, top_k 20 still learns, and says so where it cannot."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from exchange.open import open_registry
from tests.factories import PLAIN
from tests.tiny_models import make_tiny_model
from tests.unit.trainer.control.world import World
from trainer.main import run_trainer
from trainer.metrics import TrainerMetrics

CUT = PLAIN.model_copy(update={"top_p": 0.8, "top_k": 20})


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def metrics(monkeypatch: pytest.MonkeyPatch) -> TrainerMetrics:
    made = TrainerMetrics()
    monkeypatch.setattr("trainer.main.TrainerMetrics", lambda: made)
    return made


def _value(metrics: TrainerMetrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def test_truncated_answers_make_a_version(model: Path, metrics: TrainerMetrics, tmp_path: Path) -> None:
    world = World(tmp_path / "world", model)
    world.talk(start_ms=0, comparisons=24, seed=1, prefix="a", sampling=CUT)
    assert run_trainer(world.settings(), once=True) == 0
    manifest = open_registry(world.registry).adapter("support", 1)
    assert manifest.metrics["answers"] >= 8
    assert manifest.metrics["steps"] > 0
    assert 0 < manifest.kl_nats_per_sequence <= manifest.kl_budget_nats_per_sequence
    assert _value(metrics, "attune_trainer_ppo_starved") == 0
    assert _value(metrics, "attune_trainer_not_replayed_answers", reason="replay_mismatch") == 0


def test_answers_that_cannot_be_replayed_starve_the_turn_aloud(
    model: Path, metrics: TrainerMetrics, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    world = World(tmp_path / "world", model)
    world.talk(start_ms=0, comparisons=24, seed=1, prefix="a", sampling=CUT)
    assert run_trainer(world.settings(ppo={"replay_tolerance": 1e-12}), once=True) == 3
    assert open_registry(world.registry).versions("support") == ()
    assert _value(metrics, "attune_trainer_ppo_starved") == 1
    assert (_value(metrics, "attune_trainer_not_replayed_answers", reason="replay_mismatch") or 0) > 8
    assert (_value(metrics, "attune_trainer_trainable_answers") or 0) < 8
    assert "replay_mismatch" in caplog.text
