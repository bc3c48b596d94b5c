"""The reward model learns what raters prefer, survives a trip to disk, and weighs rankings as one."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch

from schemas.errors import InvalidInput
from tests.invariants.worlds import FRIENDLY, GRUFF, make_world, prompts, tiny_base
from trainer.algorithms.preference import thumb_losses
from trainer.data import PreferencePair, RatedAnswer, ThumbedAnswer
from trainer.learn.config import RewardConfig
from trainer.learn.reward import train_reward_model
from trainer.learn.reward_model import RewardModel
from trainer.learn.reward_units import Share, Unit
from trainer.models.base import Pooling

CONFIG = RewardConfig(learning_rate=3e-3, head_learning_rate=1e-2, batch_sets=16)


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("world"))


def _pairs(count: int, seed: int, ties: float = 0.0) -> list[PreferencePair]:
    """Friendly openings beat gruff ones; answers that open alike tie."""
    rng = random.Random(seed)
    pairs = []
    for number, prompt in enumerate(prompts(count, seed)):
        tie = rng.random() < ties
        end = rng.choice((12, 13))
        chosen, rejected = (FRIENDLY[0], *prompt, end), (FRIENDLY[0] if tie else GRUFF[0], *prompt, 25 - end)
        source = "comparison" if number % 2 else "correction"
        pairs.append(PreferencePair(prompt, chosen, rejected, tie, 1.0, f"u{number % 5}", source, f"set{number}"))
    return pairs


def _thumbs(count: int, seed: int) -> list[ThumbedAnswer]:
    """Friendly openings are liked; the harsh cohort likes only half of them."""
    rng = random.Random(seed)
    thumbs = []
    for number, prompt in enumerate(prompts(count, seed)):
        style, cohort = rng.choice((FRIENDLY, GRUFF)), ("harsh", "kind")[number % 2]
        liked = style is FRIENDLY and (cohort == "kind" or rng.random() < 0.5)
        thumbs.append(ThumbedAnswer(prompt, (style[0], *prompt, style[1]), liked, cohort, 1.0, f"u{number % 5}"))
    return thumbs


def _ratings(count: int, seed: int) -> list[RatedAnswer]:
    """Friendly openings get a star more than gruff ones; even raters give two stars more than odd ones."""
    rng = random.Random(seed)
    ratings = []
    for number, prompt in enumerate(prompts(count, seed)):
        style, rater = rng.choice((FRIENDLY, GRUFF)), number % 6
        stars = 1 + (style is FRIENDLY) + 2 * (rater % 2 == 0) + (rng.random() < 0.3)
        answer = (style[0], *prompt, rng.choice((12, 13)))
        ratings.append(RatedAnswer(prompt, answer, stars, "user", 1.0, f"u{rater}"))
    return ratings


def test_it_learns_from_stars_of_kind_and_of_harsh_raters(model_dir: Path, tmp_path: Path) -> None:
    """A harsh rater's two stars praise and a kind rater's three blame: only offsets of raters can tell."""
    base = tiny_base(model_dir)
    model = train_reward_model(base, [], [], CONFIG, 0, ratings=_ratings(200, 1))
    figures = model.evaluate([], [], _ratings(60, 2))
    assert figures["ratings"] == 60
    assert figures["accuracy_ratings"] > 0.8
    assert model.evaluate(_pairs(40, 3), [])["accuracy_pairs"] > 0.9
    assert model.ratings is not None
    assert list(model.ratings.thresholds) == sorted(model.ratings.thresholds)
    again = RewardModel.load(tiny_base(model_dir), model.save(tmp_path / "reward"))
    assert again.ratings == model.ratings
    stored = "".join(path.read_text(errors="ignore") for path in (tmp_path / "reward").iterdir())
    assert '"u1"' not in stored, "raters are persons"


def test_it_ranks_held_out_pairs_and_its_scores_are_standard(model_dir: Path, tmp_path: Path) -> None:
    base = tiny_base(model_dir)
    reference = [(p, (FRIENDLY[0] if n % 2 else GRUFF[0], *p, 12)) for n, p in enumerate(prompts(60, seed=9))]
    steps: list[tuple[str, int, int]] = []
    model = train_reward_model(
        base,
        _pairs(160, 1, ties=0.2),
        _thumbs(120, 2),
        CONFIG,
        0,
        reference=reference,
        progress=lambda stage, done, total, metrics: steps.append((stage, done, total)),
    )
    assert [step for step in steps if step[0] == "reward_model"] == [("reward_model", n, 18) for n in range(1, 19)]
    probed = [(done, total) for stage, done, total in steps if stage == "reward_probe"]
    assert probed[-1][0] == probed[-1][1] <= 2 * 160 + 120  # each distinct answer once
    figures = model.evaluate(_pairs(80, 3, ties=0.2), _thumbs(80, 4))
    assert figures["accuracy_pairs"] > 0.95
    assert figures["accuracy_pairs_comparison"] > 0.9
    assert figures["accuracy_thumbs"] > 0.7
    assert figures["margin"] > 1
    assert figures["ece_pairs"] < 0.35
    assert abs(figures["corr_reward_length"]) < 1e-6  # all answers of this world are equally long
    assert model.tie_threshold > 0
    assert model.cohorts["harsh"].bias < model.cohorts["kind"].bias
    scores = torch.tensor(model.score(reference), dtype=torch.float64)
    assert float(scores.mean()) == pytest.approx(0, abs=1e-4)
    assert float(scores.std(unbiased=False)) == pytest.approx(1, abs=1e-4)
    model.save(tmp_path / "reward")
    again = RewardModel.load(tiny_base(model_dir), tmp_path / "reward")
    assert again.score(reference) == model.score(reference)
    assert again.cohorts == model.cohorts
    assert again.evaluate(_pairs(20, 5), []) == model.evaluate(_pairs(20, 5), [])


def test_equal_seeds_give_equal_bytes_and_other_seeds_do_not(model_dir: Path, tmp_path: Path) -> None:
    digests = []
    for number, seed in enumerate((0, 0, 1)):
        model = train_reward_model(tiny_base(model_dir), _pairs(40, 1), _thumbs(20, 2), CONFIG, seed)
        folder = model.save(tmp_path / f"{number}")
        digests.append((folder / "adapter_model.safetensors").read_bytes())
    assert digests[0] == digests[1] != digests[2]


def test_training_a_second_model_under_its_own_name_leaves_the_first_alone(model_dir: Path) -> None:
    base = tiny_base(model_dir)
    judged = [(p, (FRIENDLY[0], *p, 12)) for p in prompts(10, seed=9)]
    first = train_reward_model(base, _pairs(32, 1), [], CONFIG, 0)
    before = first.score(judged)
    second = train_reward_model(base, _pairs(32, 7), [], CONFIG, 5, role="judge")
    assert first.score(judged) == before
    assert second.score(judged) != before


def test_going_on_from_a_stored_model_starts_where_it_stopped(model_dir: Path, tmp_path: Path) -> None:
    base = tiny_base(model_dir)
    folder = train_reward_model(base, _pairs(160, 1), _thumbs(40, 2), CONFIG, 0).save(tmp_path / "first")
    still = CONFIG.model_copy(update={"learning_rate": 1e-12, "head_learning_rate": 1e-12})
    model = train_reward_model(base, _pairs(16, 3), [], still, 1, start_from=folder)
    assert model.evaluate(_pairs(80, 3), [])["accuracy_pairs"] > 0.95
    assert set(model.cohorts) == {"harsh", "kind"}


def test_a_ranking_weighs_as_much_as_a_lone_pair(model_dir: Path) -> None:
    base = tiny_base(model_dir)
    prompt = prompts(1, seed=1)[0]
    a, b, c = ((first, *prompt, last) for first, last in ((10, 12), (10, 13), (11, 13)))
    ranking = [PreferencePair(prompt, x, y, False, 1 / 3, "u", "ranking", "r1") for x, y in ((a, b), (a, c), (b, c))]
    losses: list[float] = []
    still = CONFIG.model_copy(update={"centring_coefficient": 0.0})
    nothing_learnt = still.model_copy(update={"probe_penalties": (1e9,)})

    def note(stage: str, done: int, total: int, metrics: Mapping[str, float]) -> None:
        if stage == "reward_model":
            losses.append(metrics["loss"])

    train_reward_model(base, ranking, [], nothing_learnt, 0, progress=note)
    assert losses == [pytest.approx(0.6931, abs=1e-3)]  # a head of zeros calls every pair even: log 2


def test_all_labels_are_summed_up_once_however_many_steps(model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    summed: list[int] = []
    share_of = Share.of

    def counted(units: Sequence[Unit], per_epoch: int, config: RewardConfig) -> Share:
        summed.append(len(units))
        return share_of(units, per_epoch, config)

    monkeypatch.setattr(Share, "of", counted)
    train_reward_model(tiny_base(model_dir), _pairs(8, 1), [], CONFIG.model_copy(update={"batch_sets": 2}), 0)
    assert summed == [8]


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_the_probe_alone_ranks_what_the_base_can_tell_apart(model_dir: Path, pooling: Pooling) -> None:
    base = tiny_base(model_dir)
    config = RewardConfig(epochs=0, pooling=pooling)
    model = train_reward_model(base, _pairs(160, 1, ties=0.2), _thumbs(120, 2), config, 0)
    figures = model.evaluate(_pairs(80, 3, ties=0.2), _thumbs(80, 4))
    assert figures["accuracy_pairs"] > 0.9
    assert model.cohorts["harsh"].bias < model.cohorts["kind"].bias
    adapter = [weights for name, weights in base.snapshot("reward").items() if ".lora_B." in name]
    assert adapter
    assert not any(bool(weights.any()) for weights in adapter)


def test_without_decided_pairs_one_scale_stays_and_thumbs_are_told_better_than_by_a_coin(model_dir: Path) -> None:
    """Fine-tuning keeps to the unit that the probe has set; a tie says nothing of it, a decided pair does."""
    ties, thumbs = _pairs(4, 1, ties=1.0), _thumbs(120, 2)
    model = train_reward_model(tiny_base(model_dir), ties, thumbs, CONFIG, 0)
    scales = {name: cohort.scale for name, cohort in model.cohorts.items()}
    assert 1.0 in scales.values()
    assert 0.1 < min(scales.values()) <= max(scales.values()) < 10
    assert model.tie_threshold == pytest.approx(CONFIG.initial_tie_threshold)
    judged = _thumbs(80, 4)
    scores = model.raw_scores([(item.prompt_ids, item.answer_ids) for item in judged])
    scale, bias = (
        torch.tensor([getattr(model.cohorts[item.cohort], name) for item in judged]) for name in ("scale", "bias")
    )
    liked = torch.tensor([item.liked for item in judged])
    assert float(thumb_losses(scores, liked, scale, bias).mean()) < 0.6
    decided = train_reward_model(tiny_base(model_dir), [*ties, *_pairs(16, 1)], thumbs, CONFIG, 0)
    assert 1.0 not in [cohort.scale for cohort in decided.cohorts.values()]


def test_nothing_to_learn_from_is_refused(model_dir: Path) -> None:
    with pytest.raises(InvalidInput, match="neither pairs nor thumbs nor ratings"):
        train_reward_model(tiny_base(model_dir), [], [], CONFIG, 0)
