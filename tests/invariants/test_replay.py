"""Answers sampled with top_p or top_k are replayed exactly or left out, and PPO learns from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from statistics import mean

import pytest
import torch
from safetensors.torch import load_file

from schemas.errors import InvalidInput
from tests.invariants.worlds import logged, make_world, naive_kept, prompts, sample, taste, tiny_base, train_ppo
from trainer.data import LoggedAnswer
from trainer.joining.exclusions import Reason
from trainer.learn.config import LearnerConfig, PpoConfig
from trainer.learn.replay import Replay, replay
from trainer.learn.rollouts import prepare
from trainer.models.adapter import load_role, save_role
from trainer.models.base import POLICY, SharedBase
from trainer.models.forward import log_softmax, pick_tokens

CONFIG = PpoConfig(minibatch_answers=16, learning_rate=1e-3, stop_mean_abs_log_ratio=2.0, stop_clip_fraction=1.0)
LEARNER = LearnerConfig(checkpoint_every=2)
CUT = {"top_k": 20, "top_p": 0.8, "heat": 1.3}


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def adapter(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Version 1: the base with noise on it."""
    base, folder = tiny_base(model_dir), tmp_path_factory.mktemp("v1")
    base.open(POLICY, 0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in base.parameters(POLICY).items():
            if "lora_B" in name:
                weight.copy_(0.05 * torch.randn(weight.shape, generator=generator))
    save_role(base, POLICY, folder)
    return folder


@pytest.fixture(scope="module")
def mixed(model_dir: Path, adapter: Path) -> list[LoggedAnswer]:
    """Of base and version 1, whole and cut."""
    base = tiny_base(model_dir)
    load_role(base, POLICY, adapter)
    kinds = [
        logged(base, prompts(12, 1), taste, seed=2),
        logged(base, prompts(12, 3), taste, seed=4, **CUT),
        logged(base, prompts(12, 5), taste, seed=6, version=1, top_p=0.7),
        logged(base, prompts(12, 7), taste, seed=8, version=1, top_k=3),
    ]
    return [
        replace(answer, sample_id=f"{kind}{answer.sample_id}") for kind, some in enumerate(kinds) for answer in some
    ]


def _replay(base: SharedBase, answers: list[LoggedAnswer], folders: Mapping[int, Path], **changes: object) -> Replay:
    return replay(base, answers, folders, CONFIG.model_copy(update=changes), lambda _done, _total: None)


@torch.no_grad()
def test_the_sets_are_those_that_were_kept_while_sampling(
    model_dir: Path, adapter: Path, mixed: list[LoggedAnswer]
) -> None:
    base = tiny_base(model_dir)
    found = _replay(base, mixed, {1: adapter})
    assert found.answers == tuple(mixed)
    assert found.left_out == {}
    assert found.kept is not None
    for row, answer in enumerate(mixed):
        length = len(answer.answer_ids)
        assert bool((found.kept.counts[row, :length] > 0).all()) is answer.truncated
        if answer.truncated:
            with base.role(POLICY if answer.behaviour_version else None):
                ids = torch.tensor([[*answer.prompt_ids, *answer.answer_ids]])
                logits = base.module(input_ids=ids).logits[0].double() / answer.temperature
            for place in range(length):
                start, count = int(found.kept.starts[row, place]), int(found.kept.counts[row, place])
                expected = naive_kept(logits[len(answer.prompt_ids) - 1 + place].tolist(), answer.top_k, answer.top_p)
                assert set(found.kept.ids[start : start + count].tolist()) == expected


def test_before_the_first_step_every_ratio_is_one_and_the_base_is_at_no_distance(
    model_dir: Path, adapter: Path, mixed: list[LoggedAnswer], tmp_path: Path
) -> None:
    for version, start_from in ((0, None), (1, adapter)):
        base = tiny_base(model_dir)
        found = _replay(base, [a for a in mixed if a.behaviour_version == version], {1: adapter})
        result = train_ppo(
            base, found.answers, None, CONFIG, 0, tmp_path / str(version), start_from=start_from, kept=found.kept
        )
        first = result.history[0]
        assert first["mean_abs_log_ratio"] < 1e-4
        assert first["ratio_max"] == pytest.approx(1, abs=1e-4)
        if version == 0:
            assert result.figures["behaviour_kl_k1_per_sequence"] == pytest.approx(0, abs=1e-4)


def test_what_does_not_come_out_as_logged_is_left_out_with_the_reason(
    model_dir: Path, adapter: Path, mixed: list[LoggedAnswer]
) -> None:
    base, cut = tiny_base(model_dir), [answer for answer in mixed if answer.truncated]
    shifted = replace(
        cut[0], behaviour_logprobs=(*cut[0].behaviour_logprobs[:-1], cut[0].behaviour_logprobs[-1] - 2e-3)
    )
    outside = replace(cut[1], answer_ids=(40, *cut[1].answer_ids[1:]))
    other_parameters = replace(cut[2], top_p=0.6)
    nan = replace(cut[3], behaviour_logprobs=(float("nan"), *cut[3].behaviour_logprobs[1:]))
    found = _replay(base, [shifted, outside, other_parameters, nan, *cut[4:]], {1: adapter})
    assert set(found.left_out.values()) == {Reason.REPLAY_MISMATCH}
    assert found.left_out.keys() == {answer.sample_id for answer in cut[:4]}
    assert found.answers == tuple(cut[4:])
    assert len(_replay(base, [shifted], {}, replay_tolerance=3e-3).answers) == 1


def test_a_version_that_is_gone_or_is_another_is_not_replayed(
    model_dir: Path, adapter: Path, mixed: list[LoggedAnswer], tmp_path: Path
) -> None:
    base, later = tiny_base(model_dir), [answer for answer in mixed if answer.behaviour_version == 1]
    assert set(_replay(base, later, {}).left_out.values()) == {Reason.REPLAY_UNAVAILABLE}
    foreign = replace(later[0], behaviour_version=0)
    assert set(_replay(base, [foreign], {}).left_out.values()) == {Reason.REPLAY_MISMATCH}
    small = tiny_base(model_dir)
    small._lora = small.lora.model_copy(update={"rank": 2})
    assert set(_replay(small, later, {1: adapter}).left_out.values()) == {Reason.REPLAY_UNAVAILABLE}


def test_sets_wider_than_the_limit_are_left_out(model_dir: Path, mixed: list[LoggedAnswer]) -> None:
    of_base = [answer for answer in mixed if answer.behaviour_version == 0]
    found = _replay(tiny_base(model_dir), of_base, {}, replay_max_kept=1)
    assert Reason.REPLAY_TOO_WIDE in found.left_out.values()
    assert all(not answer.truncated for answer in found.answers) or found.kept is not None


@torch.no_grad()
def test_whole_distributions_are_computed_bit_for_bit_as_without_truncation(
    model_dir: Path, adapter: Path, mixed: list[LoggedAnswer]
) -> None:
    base = tiny_base(model_dir)
    kept = _replay(base, mixed, {1: adapter}).kept
    assert kept is not None
    pairs = [(answer.prompt_ids, answer.answer_ids) for answer in mixed]
    heat = torch.tensor([answer.temperature for answer in mixed])
    for batch in base.batches(pairs, range(len(pairs)), 256):
        logits = base.logits(batch)
        mask, warm = kept.mask(batch, logits.shape[1]), heat[list(batch.rows)]
        confined = pick_tokens(log_softmax(logits, batch, warm, mask), batch)
        plain = pick_tokens(log_softmax(logits, batch, warm), batch)
        for place, row in enumerate(batch.rows):
            assert torch.equal(confined[place], plain[place]) is not mixed[row].truncated
    whole = [row for row, answer in enumerate(mixed) if not answer.truncated]
    few = [mixed[row] for row in whole]
    assert _replay(base, few, {}).kept is None
    first = prepare(base, few, None, CONFIG, None, lambda _done: None)
    again = prepare(base, few, None, CONFIG, None, lambda _done: None, kept.select(whole))
    assert all(torch.equal(tensor, again.tensors()[name]) for name, tensor in first.tensors().items())


def test_a_resumed_run_equals_an_uninterrupted_one_and_keeps_no_token_ids_on_disk(
    model_dir: Path, adapter: Path, mixed: list[LoggedAnswer], tmp_path: Path
) -> None:
    class Cut(Exception):
        pass

    def cut(stage: str, done: int, total: int, metrics: Mapping[str, float]) -> None:
        if (stage, done) == ("ppo", 3):
            raise Cut

    def once(out: str, **options: object) -> str:
        base = tiny_base(model_dir)
        found = _replay(base, mixed, {1: adapter})
        return train_ppo(
            base, found.answers, None, CONFIG, 7, tmp_path / out, learner=LEARNER, kept=found.kept, **options
        ).adapter_digest  # type: ignore[arg-type]

    expected, points = once("whole"), tmp_path / "checkpoints"
    with pytest.raises(Cut):
        once("cut", checkpoint_dir=points, progress=cut)
    (stored,) = points.glob("step-*/tensors.safetensors")
    assert {str(tensor.dtype) for tensor in load_file(stored).values()} == {
        "torch.float32",
        "torch.bool",
        "torch.int64",
    }
    names = {name.removeprefix("prepared/") for name in load_file(stored) if name.startswith("prepared/")}
    assert {"mask", "versions"} <= names
    assert not any("kept" in name or "ids" in name for name in names)
    assert once("resumed", resume_from=points) == expected


def test_truncated_answers_without_their_sets_are_refused(
    model_dir: Path, mixed: list[LoggedAnswer], tmp_path: Path
) -> None:
    base, cut = tiny_base(model_dir), [answer for answer in mixed if answer.truncated and not answer.behaviour_version]
    with pytest.raises(InvalidInput, match="top_p or top_k"):
        train_ppo(base, cut, None, CONFIG, 0, tmp_path / "out")


def test_ppo_learns_from_truncated_answers(model_dir: Path, tmp_path: Path) -> None:
    """The taste of fresh answers rises, of whole and of truncated sampling alike."""

    def expected(base: SharedBase, **how: float) -> float:
        drawn = sample(base, prompts(400, seed=99), role=POLICY, seed=5, **how)  # type: ignore[arg-type]
        return mean(taste(ids) for ids, _ in drawn)

    base = tiny_base(model_dir)
    base.open(POLICY, 0)
    before = [expected(base), expected(base, top_p=0.8)]
    answers = logged(base, prompts(512, seed=1), taste, seed=2, top_k=20, top_p=0.8)
    found = _replay(base, answers, {})
    assert len(found.answers) == len(answers)
    config = PpoConfig(
        learning_rate=1e-3,
        epochs=2,
        beta=0.02,
        stop_mean_abs_log_ratio=0.5,
        stop_clip_fraction=0.6,
    )
    learner = LearnerConfig(kl_budget=3.0)
    result = train_ppo(base, found.answers, None, config, 0, tmp_path / "out", learner=learner, kept=found.kept)
    assert 0 < result.kl_to_reference <= learner.kl_budget
    load_role(base, POLICY, result.adapter)
    after = [expected(base), expected(base, top_p=0.8)]
    assert after[0] - before[0] > 0.15
    assert after[1] - before[1] > 0.15
