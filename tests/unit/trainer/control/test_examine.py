"""Candidate and parent put through the same: a tiny model, its own judged answers, an adapter that says otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from exchange.settings import build_settings
from tests.invariants.worlds import LORA, logged, prompts, tiny_base
from tests.tiny_models import make_tiny_model
from trainer.data import JudgedAnswer, TokenPair
from trainer.examine import Examiner
from trainer.gates.off_policy import off_policy_value
from trainer.gates.sample import load_tokenizer
from trainer.models.adapter import save_role
from trainer.models.base import POLICY, SharedBase
from trainer.settings import TrainerSettings
from trainer.suites.loading import Suites

GATES = {"prompts": 4, "max_new_tokens": 4, "min_judged_answers": 6, "min_judging_people": 3, "judged_answers": 12}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("examine") / "model")


@pytest.fixture(scope="module")
def base(model: Path) -> SharedBase:
    return tiny_base(model)


def _judged(base: SharedBase, count: int) -> list[JudgedAnswer]:
    answers = logged(base, prompts(count, 1), None, seed=2)
    return [JudgedAnswer(one, row % 2 == 0, "user", 1.0, f"u{row % 4}") for row, one in enumerate(answers)]


def _examiner(base: SharedBase, model: Path, judged: Sequence[JudgedAnswer]) -> Examiner:
    sections = {"model": str(model), "lora": {"rank": LORA.rank, "alpha": LORA.alpha}, "gates": GATES}
    settings = build_settings(TrainerSettings, sections)

    def like(answers: Sequence[TokenPair], cohorts: Sequence[str]) -> torch.Tensor:
        return torch.full((len(answers),), 0.5, dtype=torch.float64)

    return Examiner(base, load_tokenizer(model), settings, Suites((), ()), prompts(4, 3), judged, like)


def test_a_candidate_is_valued_against_its_parent_on_the_newest_judged_answers(
    base: SharedBase, model: Path, tmp_path: Path
) -> None:
    base.open(POLICY, 0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in base.parameters(POLICY).items():
            if "lora_B" in name:
                weight.copy_(0.02 * torch.randn(weight.shape, generator=generator))
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    save_role(base, POLICY, adapter)
    judged = _judged(base, 16)
    examiner = _examiner(base, model, judged)
    parent, candidate = examiner.examine(None), examiner.examine(adapter)
    assert parent.on_log is not None
    assert candidate.on_log is not None
    assert parent.on_log.log_ratios.tolist() == pytest.approx([0.0] * 12, abs=1e-4), "the parent is who answered"
    assert float(candidate.on_log.log_ratios.abs().max()) > 0.01
    found = examiner.value(candidate, parent)
    assert found is not None
    assert (found.answers, found.people) == (12, 4)
    assert found.logged == pytest.approx(0.5)
    assert found.parent.importance.value == pytest.approx(0.5, abs=1e-3)
    assert found.parent.effective_answers == pytest.approx(12, abs=1e-2)
    assert found.candidate.effective_answers < 12
    assert found.finite
    gates = build_settings(TrainerSettings, {"model": str(model), "gates": GATES}).gates
    assert off_policy_value(found, len(judged), 4, gates).value == found.robust_gain.value


@pytest.mark.parametrize("count", [5, 0])
def test_too_few_judged_answers_cost_nothing(base: SharedBase, model: Path, count: int) -> None:
    examiner = _examiner(base, model, _judged(base, 8)[:count])
    seen = examiner.examine(None)
    assert seen.on_log is None
    assert examiner.value(seen, seen) is None
