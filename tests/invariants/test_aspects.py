"""Aspects are learnt beside the reward model, leave it alone, and count as the operator says."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.invariants.worlds import FRIENDLY, GRUFF, make_world, prompts, tiny_base
from trainer.data import AspectValue, PreferencePair, TokenPair
from trainer.learn.aspects import FILE, LEAST_VALUES, Aspects, aspects_beside, fit_aspects, unlearnable_floor
from trainer.learn.config import AspectRule, RewardConfig
from trainer.learn.reward import train_reward_model
from trainer.learn.reward_model import RewardModel


def _answer(prompt: tuple[int, ...], opening: int, closing: int) -> TokenPair:
    return prompt, (opening, *prompt, closing)


def _values(count: int, seed: int, aspect: str = "tone") -> list[AspectValue]:
    """An answer's tone is its closing, whatever its opening; people's values scatter."""
    rng = random.Random(seed)
    return [
        AspectValue(
            _answer(prompt, rng.choice((10, 11)), closing := rng.choice((12, 13))),
            aspect,
            (0.6 if closing == 12 else -0.6) + rng.uniform(-0.3, 0.3),
            f"u{number % 7}",
        )
        for number, prompt in enumerate(prompts(count, seed))
    ]


@pytest.fixture(scope="module")
def reward(tmp_path_factory: pytest.TempPathFactory) -> RewardModel:
    """Prefers friendly openings; knows of no closing."""
    base, rng = tiny_base(make_world(tmp_path_factory.mktemp("world"))), random.Random(5)
    pairs = [
        PreferencePair(
            prompt,
            _answer(prompt, FRIENDLY[0], rng.choice((12, 13)))[1],
            _answer(prompt, GRUFF[0], rng.choice((12, 13)))[1],
            False, 1.0, f"u{number % 5}", "comparison", f"set{number}",
        )
        for number, prompt in enumerate(prompts(120, 3))
    ]  # fmt: skip
    return train_reward_model(base, pairs, [], RewardConfig(epochs=0), 0)


REFERENCE = [_answer(prompt, 10 + n % 2, 12 + n // 2 % 2) for n, prompt in enumerate(prompts(40, 9))]


def test_a_head_tells_held_out_people_and_moves_no_adapter(reward: RewardModel) -> None:
    before = reward.base.snapshot("reward")
    aspects = Aspects(reward, fit_aspects(reward, _values(120, 1), REFERENCE), {})
    assert all(torch.equal(tensor, before[name]) for name, tensor in reward.base.snapshot("reward").items())
    (report,) = aspects.reports(_values(60, 2), REFERENCE)
    assert (report.name, report.values, report.heldout, report.below_floor) == ("tone", 120, 60, None)
    assert report.r2 is not None
    assert report.r2 > 0.6
    assert report.correlation is not None
    assert report.correlation > 0.8
    (unjudged,) = aspects.reports(_values(1, 2), REFERENCE)
    assert (unjudged.r2, unjudged.correlation) == (None, None)


def test_what_no_rule_counts_leaves_the_reward_model_to_itself(reward: RewardModel) -> None:
    heads = fit_aspects(reward, _values(60, 1), REFERENCE)
    for rules in ({}, {"tone": AspectRule()}, {"never heard of": AspectRule(weight=1.0)}):
        assert Aspects(reward, heads, rules).scorer() is reward
    assert Aspects(reward, heads, {"tone": AspectRule(weight=0.1)}).scorer() is not reward


def test_a_weight_shifts_the_reward_and_a_floor_ends_it(reward: RewardModel) -> None:
    heads = fit_aspects(reward, _values(120, 1), REFERENCE)
    plain, kind = reward.score(REFERENCE), [answer[1][-1] == 12 for answer in REFERENCE]
    weighed = Aspects(reward, heads, {"tone": AspectRule(weight=0.5)}).score(REFERENCE)
    moved = [after - before for after, before in zip(weighed, plain, strict=True)]
    # Standardised on these answers, of which half are kind: by about half a deviation up or down.
    assert min(x for x, good in zip(moved, kind, strict=True) if good) > 0.1
    assert max(x for x, good in zip(moved, kind, strict=True) if not good) < -0.1
    assert sum(moved) == pytest.approx(0, abs=1e-3)
    held = Aspects(reward, heads, {"tone": AspectRule(weight=0.5, floor=0.0)})
    least = -reward.clip * 1.5
    assert [x == pytest.approx(least) for x in held.score(REFERENCE)] == [not good for good in kind]
    assert held.reports([], REFERENCE)[0].below_floor == pytest.approx(0.5)


def test_heads_lie_beside_the_model_and_equal_values_give_equal_bytes(reward: RewardModel, tmp_path: Path) -> None:
    folders = [tmp_path / name for name in "ab"]
    for folder in folders:
        folder.mkdir()
        aspects_beside(folder, reward, _values(60, 1), {}, REFERENCE)
    first, second = ((folder / FILE).read_bytes() for folder in folders)
    assert first == second
    rules = {"tone": AspectRule(weight=1.0)}
    again = aspects_beside(folders[0], reward, [], rules, [])
    assert again.score(REFERENCE) == Aspects(reward, fit_aspects(reward, _values(60, 1), REFERENCE), rules).score(
        REFERENCE
    )


class _Walked(tuple[AspectValue, ...]):
    """Values that count how often somebody goes through all of them."""

    walks = 0

    def __iter__(self) -> Iterator[AspectValue]:
        type(self).walks += 1
        return super().__iter__()


def test_names_that_clients_choose_freely_cost_no_look_at_all_values_each(reward: RewardModel, tmp_path: Path) -> None:
    values = _Walked(_values(1, 1, f"name-{number}")[0] for number in range(50))
    _Walked.walks = 0
    aspects_beside(tmp_path, reward, values, {}, REFERENCE)
    assert _Walked.walks == 1
    for _ in range(2):
        assert aspects_beside(tmp_path, reward, values, {}, REFERENCE).heads == {}
    assert _Walked.walks == 1, "nothing was found, which is found once"
    unlearnable_floor({f"name-{number}": AspectRule(weight=1.0) for number in range(50)}, values)
    assert _Walked.walks == 2


def test_too_few_values_have_no_head_and_hold_no_floor(reward: RewardModel, tmp_path: Path) -> None:
    few, same = _values(LEAST_VALUES - 1, 1), [*_values(1, 1, "same")] * LEAST_VALUES
    assert aspects_beside(tmp_path, reward, [*few, *same], {}, REFERENCE).heads == {}
    rules = {"tone": AspectRule(floor=0.0), "same": AspectRule(weight=1.0)}
    assert unlearnable_floor(rules, _values(LEAST_VALUES, 1)) is None
    assert "aspect tone has a floor, but 29 values" in str(unlearnable_floor(rules, few))
    assert "aspect same" in str(unlearnable_floor({"same": AspectRule(floor=0.0)}, same))
