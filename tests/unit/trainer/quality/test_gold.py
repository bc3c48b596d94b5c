"""Gold items: read with care, found by what was asked and shown, and evidence however small the crowd."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest

from exchange.log.memory import MemoryLog
from schemas.errors import ConfigError, InvalidInput
from schemas.imported import ChatMessage
from schemas.wire import encode_event
from tests.factories import Maker
from tests.unit.trainer.data.support import LATER, SCOPE, WINDOW_MS, pump_all
from tests.unit.trainer.quality.test_reviewer import flat
from trainer.intake.ingest import Ingest
from trainer.intake.ledger import Ledger
from trainer.quality.gold import gold_of, read_items
from trainer.quality.review import RaterSettings
from trainer.quality.reviewer import Reviewer
from trainer.snapshots.selection import SnapshotSettings
from trainer.snapshots.snapshot import cut_snapshot

ASKED = [{"role": "user", "content": "What is 17 + 25?"}]


def write(path: Path, *lines: object) -> Path:
    path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
    return path


def by_letters(messages: Sequence[ChatMessage], answer: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    if len(answer) > 100:
        raise InvalidInput("too long")
    return tuple(messages[-1].content.encode()), tuple(answer.encode())


def test_known_answers_become_gold_and_open_questions_do_not(tmp_path: Path) -> None:
    good = {"messages": ASKED, "answer": " 42\n", "good": True}
    bad = {"messages": ASKED, "answer": "41", "good": False}
    items = read_items(write(tmp_path / "gold.jsonl", good, "", bad, {"messages": ASKED}))
    assert [item.good for item in items] == [True, False, None]
    prompt = tuple(b"What is 17 + 25?")
    assert gold_of(items, by_letters) == {(prompt, "42"): True, (prompt, "41"): False}
    with pytest.raises(ConfigError, match="item 1 cannot be asked: too long"):
        gold_of((items[0].model_copy(update={"answer": "4" * 200}),), by_letters)


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("{", "line 2 of gold.jsonl"),
        ({"messages": []}, "messages"),
        ({"messages": ASKED, "answer": "42"}, "answer and good come together"),
        ({"messages": ASKED, "answer": "42", "good": "yes"}, "good"),
        ({"messages": ASKED, "verdict": True}, "verdict"),
    ],
)
def test_a_faulty_line_is_named(tmp_path: Path, line: object, named: str) -> None:
    path = write(tmp_path / "gold.jsonl", {"messages": ASKED}, line)
    with pytest.raises(ConfigError, match=named):
        read_items(path)
    with pytest.raises(ConfigError, match="no items"):
        read_items(write(path, ""))
    with pytest.raises(ConfigError, match="cannot be read"):
        read_items(tmp_path / "missing.jsonl")


def test_four_raters_are_told_apart_by_gold_alone(tmp_path: Path) -> None:
    """No crowd to compare with: the questions differ, each rater has answers of their own. One gets all eight wrong."""
    make, log = Maker(), MemoryLog()
    gold = {((7, number), "tt"): number % 2 == 0 for number in range(8)}
    answers, words = [], []
    for who in range(4):
        for (prompt, _), good in gold.items():
            answer = make.completion(user=f"user_{who}", prompt=prompt, answers=[(30 + who, 2)])
            answers.append(answer)
            words.append(make.thumb(answer, up=good != (who == 3), user=f"user_{who}"))
    log.append([encode_event(event) for event in (*answers, *words, make.completion(LATER))])
    with Ledger(tmp_path / "ledger.db", "support") as ledger, closing(Ingest(log, ledger, "support")) as ingest:
        pump_all(ingest)
        manifest = cut_snapshot(
            ledger, SCOPE, SnapshotSettings(feedback_window_ms=WINDOW_MS), tmp_path / "cut"
        ).manifest
        settings = RaterSettings(min_words=8)
        reviewer = Reviewer(log, ledger, make.keys, "support", "trainer_1", settings, gold)
        (finding,) = reviewer.review(tmp_path / "cut", manifest, flat).findings
        assert finding.rater == "user_3"
        assert (finding.evidence.gold, finding.evidence.gold_right) == (8, 0)
        assert finding.evidence.p_value == pytest.approx(0.3**8)
        without = Reviewer(log, ledger, make.keys, "support", "trainer_1", settings)
        assert without.review(tmp_path / "cut", manifest, flat).findings == ()
