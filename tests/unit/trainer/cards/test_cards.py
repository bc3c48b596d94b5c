"""Cards and pictures: what they say, that it stays text, and that equal facts give equal bytes."""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard
from typer.testing import CliRunner

from deploy.cards import card_texts, write_card
from deploy.cli import app
from deploy.client import AttuneClient
from schemas.errors import Conflict
from schemas.reports import AspectReport, Curves, LabelSlice, ReliabilityBin, RewardReport
from tests.unit.deploy.test_tracing import MADE
from trainer.cards.markdown import quoted, text
from trainer.cards.pictures import POLICY_PANELS, curves_png, has_curves, reliability_png

CURVES = Curves.of([{"kl_to_base_per_sequence": step / 10, "policy_loss": -step, "unknown": 1.0} for step in range(9)])
BINS = (ReliabilityBin(stated=0.25, observed=0.2, count=5), ReliabilityBin(stated=0.75, observed=0.9, count=10))
REPORT = RewardReport(
    learnt_from={"pairs": 40, "thumbs": 60},
    figures={"accuracy_pairs": 0.75, "ece_pairs": 0.04, "corr_reward_length": -0.31},
    slices=(LabelSlice(by="heldout", name="time", labels="pairs", count=8, accuracy=0.625),),
    reliability_pairs=BINS,
    aspects=(
        AspectReport(
            name="tone", values=80, heldout=9, correlation=0.5, r2=0.2, weight=0.3, floor=-0.25, below_floor=0.125
        ),
    ),
    curves=Curves.of([{"loss": 0.7, "train_accuracy": 0.5}, {"loss": 0.6, "train_accuracy": 0.6}]),
)


def told(**changes: Any) -> dict[str, Any]:
    facts = {
        "explained": {**MADE, **changes},
        "curves": CURVES.model_dump(mode="json"),
        "reward_model": REPORT.model_dump(mode="json"),
    }
    return {"version": "support@v2", "stage": "canary", "since": 1, "reason": "passed 8 gates", "facts": facts}


def test_a_card_says_where_a_version_came_from_and_how_to_take_it_back() -> None:
    said = card_texts(told(), "org/base")["README.md"]
    _, head, body = said.split("---\n", 2)
    assert yaml.safe_load(head) == {
        "base_model": "org/base",
        "base_model_relation": "adapter",
        "library_name": "peft",
        "tags": ["lora", "attune", "text-generation"],
    }
    assert ModelCard(said).data.to_dict() == yaml.safe_load(head), "as the Hub reads it"
    for words in (
        "# support@v2\n",
        "**canary**: passed 8 gates",
        "5" * 64,
        "1.500 of 6 nats per sequence",
        "| guidelines in force, version 2 | `" + "ab" * 32,
        "5 thumbs",
        "| kl\\_budget | **failed** | 7.5 | 6 | over the budget \\[of 6\\] |",
        "![Curves of its training](curves.png)",
        "| agreement of people on thumbs | alpha 0.62 (3 shared by 5 people, 9 judgements) |",
        "17 + 25?",
        '"clip": 0.2',
        "attune policy rollback support@v2",
        "attune policy promote support@v1",
    ):
        assert words in body, words


def test_a_reward_model_has_a_card_of_its_own() -> None:
    said = card_texts(told(), None)["reward-model/README.md"]
    assert "base_model" not in said
    assert "licen" not in said
    for words in (
        "Reward model of support@v2",
        "40 pairs, 60 thumbs",
        "0.75",
        "| heldout | time | pairs | 8 | 62.5% |",
        "| tone | 80 | 9 | 0.5 | 0.2 | 0.3 | -0.25 | 0.125 |",
    ):
        assert words in said, words
    assert "| 75.0% | 90.0% | 10 |" in said


def test_what_models_and_people_wrote_stays_text() -> None:
    hostile = "```\n</details><script>alert(1)</script>\n````\n![x](http://evil)\n---\nlicense: mit"
    example = {"name": "x", "question": hostile, "before": hostile, "after": hostile}
    said = card_texts(told(examples=[example], code_version="a|b <img src=x> [l](u)"), None)["README.md"]
    assert quoted(hostile).startswith("`````text\n")
    assert said.count("`````text\n") == 3
    assert "a\\|b &lt;img src=x&gt; \\[l\\](u)" in said
    assert text("one\ntwo  three") == "one two three"
    assert len(quoted("x" * 10_000)) < 3000


def test_pictures_are_png_and_the_same_bytes_each_time() -> None:
    first = curves_png(CURVES, POLICY_PANELS)
    assert first == curves_png(CURVES, POLICY_PANELS)
    assert first[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", first[16:24])
    assert width > height > 100
    for chunk in (b"tEXt", b"tIME", b"iTXt"):
        assert chunk not in first, "nothing in it says when, or by what, it was drawn"
    other = Curves.of([{"kl_to_base_per_sequence": 1.0}, {"kl_to_base_per_sequence": 3.0}])
    assert curves_png(other, POLICY_PANELS) != first
    assert reliability_png({"pairs": BINS}) != reliability_png({"thumbs": BINS[:1]})


def test_curves_are_thinned_and_keep_the_last_step() -> None:
    found = Curves.of([{"loss": step / 3, **({"rare": 1.0} if step == 1000 else {})} for step in range(1001)], most=100)
    assert len(found.steps) <= 100
    assert found.steps[-1] == 1001
    assert found.series["loss"][-1] == pytest.approx(1000 / 3, rel=1e-5)
    assert found.series["rare"][:-1] == (None,) * (len(found.steps) - 1)
    broken = Curves.of([{"loss": math.nan}, {"loss": 1.0}])
    assert broken.series["loss"] == (None, 1.0)
    assert not has_curves(Curves.of([{"loss": math.inf}]), POLICY_PANELS)
    assert not has_curves(Curves.of([]), POLICY_PANELS)


def test_the_command_prints_the_card_or_writes_the_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[tuple[str, str]] = []

    def card(self: AttuneClient, name: str, version: str) -> dict[str, Any]:
        asked.append((name, version))
        return told()

    monkeypatch.setattr(AttuneClient, "card", card)
    printed = CliRunner().invoke(app, ["policy", "card", "support@v2"], catch_exceptions=False)
    assert printed.exit_code == 0
    assert printed.output.startswith("---\nlibrary_name: peft\n")
    out = tmp_path / "card"
    written = CliRunner().invoke(app, ["policy", "card", "support@v2", "--out", str(out)], catch_exceptions=False)
    assert written.exit_code == 0
    assert asked == [("support", "v2")] * 2
    names = sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
    assert names == [
        "README.md",
        "curves.png",
        "reward-model/README.md",
        "reward-model/reliability.png",
        "reward-model/reward-curves.png",
    ]


def test_an_older_version_without_curves_and_report_has_a_plainer_card(tmp_path: Path) -> None:
    plain = told(feedback=None, examples=[])
    plain["facts"] |= {"curves": None, "reward_model": None}
    (only,) = write_card(plain, tmp_path / "card", None)
    said = only.read_text(encoding="utf-8")
    assert "![Curves" not in said
    assert "not in the registry any more" in said
    assert "No curated question was answered otherwise" in said
    with pytest.raises(Conflict, match="exists"):
        write_card(plain, tmp_path / "card", None)
