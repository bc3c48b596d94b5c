"""Populations as data: what ships is in order and opposed, and a faulty file is refused with its field and a remedy."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from deploy.demo import domain, gold, users
from deploy.demo.domain import Style
from deploy.demo.preferences import MAX_BYTES, SHIPPED, Preferences, load, parse, shipped
from deploy.demo.run import DemoOptions, run_demo
from deploy.demo.users import Taste
from schemas.errors import ConfigError

TASTE = """
[[taste]]
name = "calm"
share = 1
brevity = 0.5
correctness = 1.0
courtesy = 0.5
safety = 1.0
temperature = 0.35
attention = 0.9
click = 0.8
delay_s = 0.2
duplicate = 0.02
"""
MADE = domain.demonstrations(1500, seed=3)
# share, brevity, correctness, courtesy, safety, temperature, attention, click, delay_s, duplicate
MIXED = {
    "hurried": (0.24, 1.2, 1.0, 0.5, 1.0, 0.35, 0.85, 0.8, 0.2, 0.02),
    "careful": (0.26, 0.5, 1.8, 0.5, 1.5, 0.35, 0.97, 0.9, 0.5, 0.02),
    "courteous": (0.24, 0.5, 1.0, 1.5, 1.0, 0.35, 0.85, 0.8, 0.3, 0.02),
    "private": (0.16, 0.5, 1.0, 0.7, 2.2, 0.35, 0.95, 0.9, 0.3, 0.05),
    "moody": (0.06, 0.6, 0.8, 0.8, 0.8, 2.0, 0.70, 0.9, 0.1, 0.10),
    "gameable": (0.02, -1.5, 0.0, 1.5, 0.0, 0.35, 0.50, 1.0, 0.1, 0.05),
    "bot": (0.02, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 1.0, 0.0, 0.50),
}


def by_style(measure: Callable[[domain.Demonstration], float]) -> dict[Style, float]:
    found: dict[Style, list[float]] = {}
    for item in MADE:
        found.setdefault(item.style, []).append(measure(item))
    return {style: sum(values) / len(values) for style, values in found.items()}


def gold_of(preferences: Preferences) -> dict[Style, float]:
    return by_style(lambda item: gold.score(item.question, item.answer, weights=preferences.gold).total)


def liking_of(preferences: Preferences) -> dict[Style, float]:
    rng = random.Random(1)
    people = users.make_users(40, 2, preferences.tastes)
    return by_style(lambda item: rng.choice(people).utility(item.question, item.answer, rng))


def test_the_default_population_is_the_one_of_before() -> None:
    mixed = shipped("mixed")
    assert mixed.gold == gold.Weights() == gold.DEFAULT
    found = {taste.name: taste.model_dump(exclude={"name", "reading_words"}) for taste in mixed.tastes}
    assert {name: tuple(values.values()) for name, values in found.items()} == MIXED
    assert {taste.reading_words for taste in mixed.tastes} == {30}


@pytest.mark.parametrize("measure", [gold_of, liking_of])
def test_brief_and_warm_want_opposite_things_of_the_same_demonstrations(
    measure: Callable[[Preferences], dict[Style, float]],
) -> None:
    brief, warm = measure(shipped("brief")), measure(shipped("warm"))
    assert brief[Style.PLAIN] > brief[Style.EXCELLENT] > brief[Style.RAMBLING]
    assert warm[Style.RAMBLING] > warm[Style.PLAIN]
    assert warm[Style.EXCELLENT] > warm[Style.PLAIN] > warm[Style.RUDE]
    for found in (brief, warm):
        best = max(found.values())
        assert found[Style.WRONG] < best - 0.25
        assert found[Style.LEAKING] < best - 0.25


@pytest.mark.parametrize("name", SHIPPED)
def test_users_agree_with_the_gold_of_their_population_on_the_best_style(name: str) -> None:
    liked, worth = liking_of(shipped(name)), gold_of(shipped(name))
    assert max(liked, key=liked.__getitem__) is max(worth, key=worth.__getitem__)


def test_anyones_file_is_read_and_named_after_itself(tmp_path: Path) -> None:
    path = tmp_path / "ours.toml"
    path.write_text(f"[gold]\ncorrectness = 0.7\npoliteness = 0.3\nbrevity = 0\n{TASTE}")
    found = load(path)
    assert found.name == "ours"
    assert found.gold == gold.Weights(correctness=0.7, politeness=0.3, brevity=0.0)
    assert found.tastes[0].reading_words == 30
    assert parse(TASTE, "x").gold == gold.DEFAULT  # without [gold]
    assert DemoOptions(users=path).preferences() == found
    assert DemoOptions().preferences() is shipped("mixed")


@pytest.mark.parametrize(
    ("text", "field", "said"),
    [
        (TASTE + "brevty = 1\n", "taste.0.brevty", "Did you mean brevity?"),
        (TASTE + "zzz = 1\n", "taste.0.zzz", "Known here: name, share"),
        (f"[gold]\npolitness = 1\n{TASTE}", "gold.politness", "Did you mean politeness?"),
        (f"seed = 1\n{TASTE}", "seed", "Known here: gold, taste"),
        (TASTE.replace("click = 0.8\n", ""), "taste.0.click", "required"),
        (TASTE.replace("click = 0.8", "click = 1.8"), "taste.0.click", "less than or equal to 1"),
        (TASTE.replace("share = 1", "share = 0"), "taste.0.share", "greater than 0"),
        (TASTE.replace("share = 1", 'share = "1"'), "taste.0.share", "valid number"),
        (TASTE.replace("temperature = 0.35", "temperature = nan"), "taste.0.temperature", "less than"),
        (TASTE.replace("delay_s = 0.2", "delay_s = inf"), "taste.0.delay_s", "less than"),
        (TASTE.replace('"calm"', '"a/b"'), "taste.0.name", "match pattern"),
        (TASTE + TASTE, "users", "more than one taste is named calm"),
        (f"[gold]\ncorrectness = 0.9\n{TASTE}", "gold", "must add up to 1"),
        (f"[gold]\nbrief_words = 60\n{TASTE}", "gold", "more than brief_words"),
        ("[gold]\n", "taste", "required"),
        ("taste = 3", "taste", "valid tuple"),
        ("= 1", "users", "no TOML"),
    ],
)
def test_a_faulty_file_is_refused_with_its_field_and_a_remedy(text: str, field: str, said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse(text, "ours")
    assert refused.value.field == field
    assert said in str(refused.value)
    assert refused.value.remedy


def test_files_that_are_not_there_not_text_or_too_large_are_refused(tmp_path: Path) -> None:
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    (tmp_path / "large.toml").write_text(TASTE + "#" * MAX_BYTES)
    for name in ("missing.toml", "bytes.toml", "large.toml"):
        with pytest.raises(ConfigError) as refused:
            load(tmp_path / name)
        assert (refused.value.field, bool(refused.value.remedy)) == ("users", True)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        (DemoOptions(taste="sour"), "taste"),
        (DemoOptions(taste="warm", users=Path("x.toml")), "users"),
        (DemoOptions(shuffle=True, sabotage=True), "sabotage"),
    ],
)
def test_options_that_are_not_possible_are_refused_before_anything_starts(options: DemoOptions, field: str) -> None:
    with pytest.raises(ConfigError) as refused:
        run_demo(options)
    assert refused.value.field == field
    assert refused.value.remedy


def test_the_documentation_explains_every_field() -> None:
    page = (Path(__file__).parents[3] / "docs" / "demo.md").read_text(encoding="utf-8")
    assert [name for name in (*gold.Weights.model_fields, *Taste.model_fields) if f"`{name}`" not in page] == []
    assert [name for name in SHIPPED if f"{name}.toml" not in page] == []
