"""The doctor: each thing that keeps a loop from learning is found, in words, with a remedy; and it disturbs nobody."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from deploy.cli import app
from deploy.doctor.feedback import Evidence, look_at_feedback
from deploy.doctor.findings import Finding, Weight
from deploy.doctor.setup import look_at_settings
from deploy.doctor.versions import look_at_versions
from exchange.log.port import TopicPartition
from exchange.open import open_log
from exchange.settings import build_settings
from schemas.completion import ConsentLevel
from schemas.errors import ConfigError
from schemas.event import Event
from schemas.lifecycle import Lease, PolicyState, Stage, VersionState
from schemas.topics import DEAD_LETTER
from schemas.wire import LogRecord, encode_event
from server.settings import ServerSettings
from tests.factories import PLAIN, START, Maker
from tests.unit.trainer.data.support import LATER, SCOPE, known, ledger_of
from trainer.intake.copy import copy_facts
from trainer.intake.ledger import Ledger
from trainer.joining.funnel import funnel
from trainer.joining.join import join
from trainer.release.promotion import CanaryVote, PromotionSettings
from trainer.settings import FeedbackSection, TrainerSettings
from trainer.snapshots.news import Mark

HOUR = 3_600_000
GREEDY = PLAIN.model_copy(update={"temperature": 0.0})
CUT = PLAIN.model_copy(update={"min_p": 0.1})


def found(
    events: Sequence[Event], *, since: Mark | None = None, method: str = "ppo", **settings: Any
) -> dict[str, Finding]:
    section = FeedbackSection.model_validate(
        {"min_new_labels": 10, "min_answers": 10, "feedback_window_ms": 10_000} | settings
    )
    facts = known(events, watermark=max((event.at for event in events), default=0) + LATER)
    joined = join(facts, SCOPE, section.feedback_window_ms)
    findings = look_at_feedback(Evidence(facts, joined, funnel(joined), section, since, method))
    return {finding.code: finding for finding in findings}


def talk(make: Maker, count: int = 20, *, users: int = 5, at: int = 1_000, **answer: Any) -> list[Event]:
    """Answers, each with a thumb `at` ms after it; up and down in turn."""
    events: list[Event] = []
    for number in range(count):
        user = f"u{number % users}"
        said = make.completion(number, user=user, **answer)
        events += [said, make.thumb(said, up=number % 2 == 0, at=number + at, user=user)]
    return events


def test_a_healthy_loop_has_nothing_that_blocks() -> None:
    make = Maker()
    events = talk(make)
    events.append(make.displayed([events[0]]))  # type: ignore[list-item]
    assert found(events) == {}


def test_a_model_that_nobody_hears_is_told() -> None:
    make = Maker()
    events = talk(make)
    left, right = make.completion(1, user="judge"), make.completion(2, user="judge")
    model = make.comparison([left, right], 0, user="judge", source="ai")
    told = found([*events, left, right, model])["unheard_models"]
    assert (told.weight, told.message.partition(":")[0]) == (Weight.SLOWS, "1 comparisons of models have no weight")
    person = make.comparison([left, right], 1, user="u1")
    assert "unheard_models" not in found([*events, left, right, model, person])


def test_silence_is_named_first() -> None:
    make = Maker()
    assert [(code, one.weight) for code, one in found([]).items()] == [("no_answers", Weight.BLOCKS)]
    silent = found([make.completion(n) for n in range(3)])
    assert [(code, one.weight) for code, one in silent.items()] == [("no_feedback", Weight.BLOCKS)]
    assert "3 answers, and nobody" in silent["no_feedback"].message


def test_too_few_labels_block_a_loop_that_never_turned_and_else_are_waited_for() -> None:
    events = talk(Maker(), 20)
    first = found(events, min_new_labels=50)["few_labels"]
    assert first.weight is Weight.BLOCKS
    assert "20 new usable labels since the last turn, and a turn begins at 50" in first.message
    waits = found(events, since=Mark(watermark=START + 10_014, read=0, imported=0))["few_labels"]
    assert waits.weight is Weight.WAITS
    assert "5 new usable labels" in waits.message, "those on answers whose window of 10 s closed later"


@pytest.mark.parametrize(
    ("answer", "code", "words", "remedy"),
    [
        ({"sampling": GREEDY}, "ppo_temperature_zero", "All answers cannot train PPO: decoded greedily", "exploration"),
        ({"sampling": CUT}, "ppo_truncated_sampling", "cut the distribution", "generation_config.json"),
        ({"finish_reason": "length"}, "ppo_cut_off", "did not come to its end", "max_tokens"),
        ({"logprobs": False}, "ppo_missing_logprobs", "logprob of a token is missing", "seam"),
        ({"base_fingerprint": "9" * 64}, "ppo_wrong_base", "another base model", "same `model`"),
        ({"consent": ConsentLevel.STORE}, "ppo_no_consent", "not consented to training", "attune-consent: train"),
    ],
)
def test_a_starved_ppo_is_explained(answer: dict[str, Any], code: str, words: str, remedy: str) -> None:
    findings = found(talk(Maker(), **answer))
    assert findings["ppo_starved"].message == "PPO may learn from 0 of 20 answers, and a turn needs 10."
    assert findings[code].weight is Weight.BLOCKS
    assert words in findings[code].message
    assert remedy in findings[code].remedy
    assert "ppo_starved" not in found(talk(Maker(), **answer), method="dpo"), "DPO needs no such answers"


def test_late_feedback_says_which_window_would_do() -> None:
    late = found(talk(Maker(), at=60_000))["late_feedback"]
    assert late.weight is Weight.BLOCKS, "no word is left"
    assert "20 of 20 words are left out" in late.message
    assert "more than 60 s after their answer; the window is 10 s" in late.message
    assert "61000 would take in nine of ten" in late.remedy
    make = Maker()
    some = found([*talk(make, 12), *talk(make, 14, at=60_000, id=None)])
    assert some["late_feedback"].weight is Weight.SLOWS


def test_no_consent_and_words_that_do_not_train_are_named() -> None:
    assert found(talk(Maker(), consent=ConsentLevel.STORE))["no_consent"].weight is Weight.BLOCKS
    make = Maker()
    comments: list[Event] = []
    for number in range(12):
        said = make.completion(number)
        comments += [said, make.comment(said)]
    assert "thumbs, ratings" in found(comments)["not_a_preference"].remedy


def test_one_person_and_one_verdict_are_named() -> None:
    make = Maker()
    lone = found([*talk(make, 15, users=1), *talk(make, 5, users=5)])
    assert lone["one_voice"].message.startswith("One person said 16 of 20")
    assert "u0" not in lone["one_voice"].message
    assert "one_voice" not in found(talk(Maker()))
    happy = [event for event in talk(Maker(), 40) if getattr(getattr(event, "signal", None), "value", "up") == "up"]
    assert "calls its answer good" in found(happy)["one_verdict"].message


# --- versions -----------------------------------------------------------------------------------------------------

NOW = 100 * HOUR


def state(*stages: Stage, canary: int | None = None, lease: Lease | None = None, reason: str = "") -> PolicyState:
    versions = {0: VersionState(version=0, stage=Stage.STABLE, since=0)}
    for number, stage in enumerate(stages, start=1):
        versions[number] = VersionState(version=number, stage=stage, since=NOW - HOUR, reason=reason)
    held = lease or Lease(holder="me", epoch=1, expires_at=NOW + 1)
    return PolicyState(policy="support", versions=versions, canary=canary, lease=held)


def versions(given: PolicyState, votes: Sequence[CanaryVote] = ()) -> dict[str, Finding]:
    asked: list[tuple[int, int, int]] = []

    def cast(*which: int) -> Sequence[CanaryVote]:
        asked.append(which)  # type: ignore[arg-type]
        return votes

    findings = {one.code: one for one in look_at_versions(given, PromotionSettings(), cast, holder="me", now=NOW)}
    assert asked == ([(given.canary, 0, NOW - HOUR)] if given.canary else [])
    return findings


def test_who_holds_the_lease() -> None:
    assert versions(state()) == {}
    assert "attune train" in versions(state(lease=Lease()))["no_trainer"].remedy
    gone = Lease(holder="me", epoch=1, expires_at=NOW)
    assert versions(state(lease=gone))["no_trainer"].weight is Weight.BLOCKS
    other = versions(state(lease=Lease(holder="trainer_9", epoch=2, expires_at=NOW + 1)))["lease_elsewhere"]
    assert (other.weight, "trainer_9" in other.message) == (Weight.BLOCKS, True)


def test_a_canary_without_votes_blocks_and_one_with_some_is_waited_for() -> None:
    waiting = versions(state(Stage.CANARY, canary=1))["canary_waits"]
    assert waiting.weight is Weight.BLOCKS
    assert (
        "support@v1 is an undecided canary, for 1.0 hours now: 0 of 0 blinded votes; 40 are needed" in waiting.message
    )
    assert "attune policy promote support@v1" in waiting.remedy
    vote = CanaryVote(speaker="a", comparison_id="c", at=NOW, verdict="win")
    assert versions(state(Stage.CANARY, canary=1), [vote])["canary_waits"].weight is Weight.WAITS


def test_rejections_weigh_more_the_more_there_are() -> None:
    for count, weight in ((1, Weight.NOTE), (2, Weight.SLOWS), (3, Weight.BLOCKS)):
        given = state(Stage.RETIRED, *[Stage.REJECTED] * count, reason="gates: KL of 9 nats is over the budget of 6.")
        rejected = versions(given)["rejected"]
        assert rejected.weight is weight
        assert "KL of 9 nats is over the budget of 6." in rejected.message
    assert "rejected" not in versions(state(Stage.REJECTED, Stage.RETIRED))


# --- settings -----------------------------------------------------------------------------------------------------


def trainer_settings(**more: Any) -> TrainerSettings:
    return build_settings(TrainerSettings, {"model": "none", **more})


def test_a_server_and_a_trainer_that_do_not_meet_are_told_apart() -> None:
    server = ServerSettings.model_validate({"engine": {"model": "none"}})
    assert list(look_at_settings(server, trainer_settings())) == []
    apart = trainer_settings(
        log="sqlite:///other.db", registry="file:o", keys="sqlite:///o.db", policy="sales", lora={"rank": 32}
    )
    codes = {one.code: one.weight for one in look_at_settings(server, apart)}
    assert codes == dict.fromkeys(("other_log", "other_registry", "other_keys", "other_policy", "rank"), Weight.BLOCKS)


def test_a_model_that_cuts_its_own_distribution_is_named(tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_text('{"top_p": 0.8, "top_k": 20, "temperature": 0.7}')
    trainer = trainer_settings(model=str(tmp_path))
    (finding,) = look_at_settings(None, trainer)
    assert (finding.code, "top_p 0.8 and top_k 20" in finding.message) == ("generation_config", True)
    exploring = {"engine": {"model": str(tmp_path)}, "chat": {"exploration_share": 0.2}}
    assert list(look_at_settings(ServerSettings.model_validate(exploring), trainer)) == []
    for odd in ("[", "[1]", '{"top_p": 1.0, "top_k": 0}'):
        (tmp_path / "generation_config.json").write_text(odd)
        assert list(look_at_settings(None, trainer)) == []


def test_a_hub_models_cuts_are_found_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cached = tmp_path / "cached.json"
    cached.write_text('{"top_k": 20}')
    monkeypatch.setattr("deploy.doctor.setup.try_to_load_from_cache", lambda repo, name: str(cached))
    (finding,) = look_at_settings(None, trainer_settings(model="some/model"))
    assert "top_k 20" in finding.message
    monkeypatch.undo()
    for uncached in ("some/model", "/no/such/folder", "a/b/c"):
        assert list(look_at_settings(None, trainer_settings(model=uncached))) == []


# --- the command --------------------------------------------------------------------------------------------------


def home(folder: Path, **feedback: Any) -> Path:
    lines = ['model = "none"', 'log = "sqlite:///log.db"', 'registry = "file:registry"', 'state_dir = "state"']
    lines += ["[feedback]", "feedback_window_ms = 10000", "min_new_labels = 10", "min_answers = 10"]
    config = folder / "trainer.toml"
    config.write_text("\n".join(lines), encoding="utf-8")
    return config


def run(*words: str) -> Result:
    return CliRunner().invoke(app, ["doctor", *words], env={"COLUMNS": "300"}, catch_exceptions=False)


def codes(config: Path) -> tuple[int, set[str], dict[str, int]]:
    result = run("-c", str(config), "--json")
    told = json.loads(result.output)
    assert told["blocked"] is (result.exit_code == 1)
    return result.exit_code, {one["code"] for one in told["findings"]}, told["funnel"]


def test_a_home_that_never_ran_has_no_log_and_gets_none(tmp_path: Path) -> None:
    assert codes(home(tmp_path)) == (1, {"no_log"}, {})
    assert not (tmp_path / "log.db").exists()
    assert not (tmp_path / "state").exists()


def test_it_works_beside_a_trainer_and_changes_nothing(tmp_path: Path) -> None:
    config, make = home(tmp_path), Maker()
    events = [*talk(make, sampling=GREEDY), make.completion(LATER)]
    with open_log(f"sqlite:///{tmp_path / 'log.db'}") as log:
        log.append([encode_event(event) for event in events[:10]])
        good = encode_event(events[0])
        log.append([LogRecord(good.topic, good.key, b"{", good.headers)])
        with Ledger(tmp_path / "state" / "ledger.db", "support"):  # a trainer that has read nothing yet
            log.append([encode_event(event) for event in events[10:]])
            code, said, stages = codes(config)
            assert code == 1
            assert {"ppo_temperature_zero", "no_trainer", "dead_letters"} <= said
            assert (stages["answered"], stages["reward_model"], stages["ppo"]) == (21, 20, 0)
        assert log.end_offset(TopicPartition(DEAD_LETTER.name, 0)) == 0, "burying is the trainer's"
    shown = run("-c", str(config))
    assert shown.exit_code == 1
    assert "21 answered, 0 displayed, 20 rated" in shown.output
    assert "decoded greedily" in shown.output
    with Ledger(tmp_path / "state" / "ledger.db", "support") as ledger:
        assert ledger.offsets() == {}


def test_it_takes_one_trainer_and_at_most_one_server(tmp_path: Path) -> None:
    config = home(tmp_path)
    server = tmp_path / "server.toml"
    server.write_text('[engine]\nmodel = "none"\n[server]\nlog = "sqlite:///elsewhere.db"\n', encoding="utf-8")
    for words in (("-c", str(server)), ("-c", str(config), "-c", str(config))):
        with pytest.raises(ConfigError, match="one trainer"):
            run(*words)
    both = json.loads(run("-c", str(config), "-c", str(server), "--json").output)
    assert {"other_log", "no_log"} <= {one["code"] for one in both["findings"]}


def test_a_ledger_is_copied_without_its_content(tmp_path: Path) -> None:
    make = Maker()
    answer = make.completion()
    with open_log(f"sqlite:///{tmp_path / 'log.db'}") as log:
        log.append([encode_event(answer), encode_event(make.thumb(answer))])
        with ledger_of(log) as ledger:
            path = Path(ledger._connection.execute("PRAGMA database_list").fetchone()[2])
            copy_facts(path, tmp_path / "copy.db")
            with Ledger(tmp_path / "copy.db", "support") as copy:
                assert copy.known() == ledger.known()
                assert copy.sealed([answer.id]) == {}
                assert ledger.sealed([answer.id]) != {}
    (tmp_path / "odd.db").write_bytes(b"no database at all, whatever its name says")
    with pytest.raises(ConfigError, match="cannot be read"):
        copy_facts(tmp_path / "odd.db", tmp_path / "copy2.db")
