"""What models say trains within its share, and is never taken for what people say."""

from __future__ import annotations

from pathlib import Path

import pytest

from schemas.feedback import FeedbackSource
from schemas.manifests import GuidanceInForce, GuidanceKind, GuidanceManifest
from tests.factories import START, Maker
from tests.unit.trainer.data.support import SCOPE, joined, ledger_of, log_of
from trainer.data import PreferencePair, ThumbedAnswer
from trainer.joining.exclusions import Reason
from trainer.joining.funnel import funnel
from trainer.snapshots.ai_share import within_ai_share
from trainer.snapshots.corpus import training_data
from trainer.snapshots.dataset import open_dataset
from trainer.snapshots.examples import propensity_weights, rows_of
from trainer.snapshots.selection import SnapshotSettings, select
from trainer.snapshots.snapshot import cut_snapshot

AI = FeedbackSource.AI
ALL = SnapshotSettings(feedback_window_ms=10_000, heldout_users=0, heldout_time=0)


def test_models_are_no_part_of_what_people_said() -> None:
    make = Maker()
    first, second = make.completion(user="ann"), make.completion(user="judge")
    mine, theirs = make.thumb(first), make.thumb(second, user="judge", source=AI)
    result = joined(first, second, mine, theirs)
    assert [word.feedback.id for word in result.words] == [mine.id]
    assert [word.feedback.id for word in result.ai] == [theirs.id]
    assert (funnel(result).rated, funnel(result).joined, funnel(result).words) == (1, 1, 1)
    alone = joined(first, second, mine)
    assert propensity_weights(result.words, result.settled, 5) == propensity_weights(alone.words, alone.settled, 5)


def test_models_words_are_never_held_out() -> None:
    make = Maker()
    answers = [make.completion(n * 1_000, user=f"u{n}") for n in range(20)]
    people = [make.thumb(answer, at=n * 1_000 + 10, user=f"u{n}") for n, answer in enumerate(answers)]
    judged = [make.completion(n * 1_000 + 500, user=f"judge{n}") for n in range(20)]
    models = [make.thumb(one, at=n * 1_000 + 510, user=f"judge{n}", source=AI) for n, one in enumerate(judged)]
    settings = ALL.model_copy(update={"heldout_users": 0.5, "heldout_time": 0.25})
    with_models, without = joined(*answers, *judged, *people, *models), joined(*answers, *people)
    chosen = select(with_models, settings, None)
    assert chosen.time_cut == select(without, settings, None).time_cut, "the newest fourth of what people said"
    found = rows_of(chosen, with_models.settled, settings).thumbs
    assert {row.heldout for row in found if row.source == AI} == {""}
    assert {row.heldout for row in found if row.source != AI} == {"", "user", "time"}
    assert sum(row.source == AI for row in found) == 20


def test_models_take_the_room_that_people_leave() -> None:
    make = Maker()
    answers = [make.completion(n * 100, user=f"u{n}") for n in range(4)]
    people = [make.thumb(answer, user=f"u{n}") for n, answer in enumerate(answers[:2])]
    models = [make.thumb(answer, at=1_500 + n, user="judge", source=AI) for n, answer in enumerate(answers)]
    chosen = select(joined(*answers, *people, *models), ALL.model_copy(update={"max_labels": 3}), None)
    assert [word.feedback.id for word in chosen.words] == [word.id for word in people]
    assert [word.feedback.id for word in chosen.ai] == [models[3].id], "the newest"
    assert [(one.id, one.reason) for one in chosen.exclusions] == [(word.id, Reason.OVER_CAP) for word in models[:3]]


def pair(speaker: str, weight: float) -> PreferencePair:
    return PreferencePair((1,), (2,), (3,), False, weight, "someone", "comparison", "set", speaker)


def test_models_weigh_at_most_their_share() -> None:
    labels = [pair("user", 1.0), pair("ai", 2.0), pair("imported", 1.0), pair("rater", 2.0), pair("ai", 6.0)]
    # 8 of models against 4 of people: at a share of 0.5 they may have 2, a fourth of what they have.
    found = within_ai_share(labels, 0.5, lambda one: one.speaker)
    assert [one.weight for one in found] == [1.0, 0.5, 1.0, 2.0, 1.5]
    assert within_ai_share(labels[:3], 1.0, lambda one: one.speaker) == tuple(labels[:3]), "within it nothing changes"
    assert within_ai_share(labels, 0.0, lambda one: one.speaker) == (labels[0], labels[2], labels[3])
    assert within_ai_share([labels[1]], 0.5, lambda one: one.speaker) == (), "where people said nothing of the kind"
    assert within_ai_share([], 0.5, lambda one: one.cohort if isinstance(one, ThumbedAnswer) else "") == ()


def guidance(version: int, at: int) -> GuidanceManifest:
    return GuidanceManifest(
        kind=GuidanceKind.GUIDELINES,
        policy="support",
        version=version,
        created_at=at,
        files={},
        digest=f"{version:064}",
    )


def test_a_snapshot_counts_them_caps_them_and_names_the_guidance_in_force(tmp_path: Path) -> None:
    make = Maker()
    asked = [make.completion(n, user="ann", answers=[(5, n)]) for n in range(4)]
    judged = [make.completion(n + 10, user="judge", answers=[(6, n)]) for n in range(4)]
    words = [
        make.comparison(asked[:2], 0, user="ann"),
        make.thumb(asked[2], user="ann"),
        make.comparison(judged[:2], 0, user="judge", source=AI),
        make.comparison(judged[2:], 1, user="judge", source=AI),
        make.correction(judged[0], "better", user="judge", source=AI),
        make.thumb(judged[3], user="judge", source=AI),
    ]
    log = log_of([*asked, *judged, *words, make.completion(900_000, user="clock")])
    published = (guidance(1, START - 5), guidance(2, START + 50), guidance(3, START + 10**9))
    with ledger_of(log) as ledger:
        snapshot = cut_snapshot(ledger, SCOPE, ALL, tmp_path / "cut", guidance=published)
    manifest = snapshot.manifest
    assert manifest.words_by_source == {"ai": 4, "user": 2}
    assert manifest.counts["words"] == 6
    assert manifest.funnel["reward_model"] == 2
    assert manifest.guidance == (
        GuidanceInForce(kind=GuidanceKind.GUIDELINES, version=2, digest=f"{2:064}", since=START + 50),
    )
    dataset = open_dataset(tmp_path / "cut", manifest, make.keys, lambda _, text: [*text.encode(), 2])
    data = training_data(dataset, 0.5)
    by = {speaker: sum(one.weight for one in data.pairs if one.speaker == speaker) for speaker in ("user", "ai")}
    assert by == {"user": 1.0, "ai": pytest.approx(0.5)}, "comparisons and the correction together"
    assert [(one.cohort, one.weight) for one in data.thumbs] == [("user", 1.0), ("ai", 0.5)]
    assert len(training_data(dataset, 0.0).pairs) == 1
    people = data.of_people()
    assert {one.speaker for one in people.pairs} == {"user"}
    assert [one.cohort for one in people.thumbs] == ["user"]
