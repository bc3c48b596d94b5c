"""From votes to sealed events, once each; and what the trainer makes of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from deploy.votes.importing import BATCH, Destination, Survey, imported_ids, survey, write
from deploy.votes.reading import Found
from deploy.votes.vote import Vote
from exchange.keys.memory import MemoryKeys
from exchange.log.memory import MemoryLog
from exchange.log.port import Position, TopicPartition
from schemas.base import now_ms
from schemas.completion import ConsentLevel
from schemas.errors import Unavailable
from schemas.imported import ChatMessage, FeedbackImported, ImportedContent
from schemas.sealed import unseal
from schemas.topics import FEEDBACK
from schemas.wire import LogRecord, decode_event
from server import pseudonyms

KEY = b"k" * 32
TO = Destination("support", "acme", ConsentLevel.TRAIN, KEY)
ASKED = (ChatMessage(role="user", content="hello"),)


def vote(answers: tuple[str, ...] = ("hi",), liked: bool | None = True, **more: Any) -> Vote:
    return Vote(ASKED, answers, liked, **more)


def found(*votes: Vote) -> list[Found]:
    return [Found(f"line {number}", one) for number, one in enumerate(votes, start=1)]


def events(log: MemoryLog) -> list[FeedbackImported]:
    places = {TopicPartition(FEEDBACK.name, number): 0 for number in log.partitions(FEEDBACK.name)}
    records = log.reader(places).poll(max_records=10_000)
    return [event for one in records if isinstance(event := decode_event(one.value, one.headers), FeedbackImported)]


def looked(*votes: Vote, known: frozenset[str] = frozenset()) -> Survey:
    return survey(found(*votes), TO, set(known))


def test_a_vote_becomes_an_event_sealed_for_the_person_as_chats_know_them() -> None:
    log, keys = MemoryLog(), MemoryKeys()
    assert (
        write(found(vote(user="ann", session="s", at=5, domain="orders", source="open-webui")), TO, log, keys, set())
        == 1
    )
    (event,) = events(log)
    user = pseudonyms.end_user(KEY, "acme", "ann")
    assert (event.end_user, event.conversation) == (user, pseudonyms.conversation(KEY, "acme", "s"))
    assert (event.kind, event.liked, event.at, event.domain, event.source) == (
        "thumbs",
        True,
        5,
        "orders",
        "open-webui",
    )
    assert (event.consent.level, event.consent.source) == (ConsentLevel.TRAIN, "import")
    assert "hello" not in event.model_dump_json()
    assert event.content.subject == user
    key = keys.lookup(event.content.key_id)
    assert key is not None
    opened = ImportedContent.model_validate_json(unseal(event.content, key=key.secret, event_id=event.id))
    assert opened == ImportedContent(messages=ASKED, answers=("hi",))


def test_importing_twice_counts_once_and_says_so() -> None:
    log, keys = MemoryLog(), MemoryKeys()
    votes = found(vote(user="ann"), vote(user="ann"), vote(user="bob"), vote(("a", "b"), None))
    first = survey(votes, TO, imported_ids(log, "support"))
    assert (first.fresh, first.left_out) == ({"thumbs up": 2, "preferences": 1}, {"repeated": 1})
    assert (len(first.people), first.undated) == (3, 3)
    assert write(votes, TO, log, keys, imported_ids(log, "support")) == 3
    known = imported_ids(log, "support")
    assert len(known) == 3
    again = survey(votes, TO, known)
    assert (again.fresh.total(), again.left_out) == (0, {"imported_before": 4})
    assert write(votes, TO, log, keys, known) == 0
    assert len(events(log)) == 3
    assert imported_ids(log, "sales") == set()


def test_ids_tell_votes_apart_by_person_and_verdict_and_targets_by_what_was_judged() -> None:
    now = now_ms()
    up, down = TO.event(vote(user="ann"), now), TO.event(vote(user="ann", liked=False), now)
    other = TO.event(vote(user="bob"), now)
    better, worse = TO.event(vote(("a", "b"), None), now), TO.event(vote(("b", "a"), None), now)
    assert len({up.id, down.id, other.id, better.id, worse.id}) == 5
    assert up.target == down.target == other.target
    assert better.target == worse.target != up.target
    assert better.conversation == worse.conversation, "nobody was named, so the vote stands for its person"
    assert TO.event(vote(user="ann", at=7, source="langfuse"), now).id == up.id
    elsewhere = Destination("support", "other", ConsentLevel.TRAIN, KEY)
    assert elsewhere.event(vote(user="ann"), now).id != up.id


def test_what_cannot_be_imported_is_counted_and_only_the_first_faults_are_kept() -> None:
    future = vote(at=now_ms() + 3_600_000)
    items = [*found(future), Found("line 2", left_out="neutral"), *(Found(f"line {n}", bad="x") for n in range(3, 40))]
    result = survey(items, TO, set())
    assert result.faults[0] == ("line 1", "at: at lies in the future")
    assert (result.bad, len(result.faults), result.left_out, result.fresh.total()) == (38, 20, {"neutral": 1}, 0)
    assert write(items, TO, MemoryLog(), MemoryKeys(), set()) == 0


def test_a_log_that_goes_away_leaves_what_was_written_to_be_counted_once() -> None:
    class Fragile(MemoryLog):
        calls = 0

        def append(self, records: list[LogRecord]) -> list[Position]:  # type: ignore[override]
            self.calls += 1
            if self.calls == 2:
                raise Unavailable("the event log is away")
            return super().append(records)

    log, keys = Fragile(), MemoryKeys()
    votes = found(*(vote((f"answer {n}",)) for n in range(BATCH + 5)))
    with pytest.raises(Unavailable, match=f"{BATCH} votes were written before that"):
        write(votes, TO, log, keys, set())
    assert write(votes, TO, log, keys, imported_ids(log, "support")) == 5
    assert len({event.id for event in events(log)}) == len(events(log)) == BATCH + 5


def test_the_command_imports_what_it_showed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from typer.testing import CliRunner

    from deploy.cli import app
    from deploy.init import write_home
    from exchange.open import open_log
    from schemas.errors import ConfigError, InvalidInput

    home = write_home(tmp_path / "home", model="x", policy="support", log="sqlite:///log.db")
    file = tmp_path / "votes.jsonl"
    good = {"prompt": "hello", "chosen": "hi", "rejected": "go", "extra": 1}
    file.write_text(f"{json.dumps(good)}\n{{}}\n")
    runner, url = CliRunner(), f"sqlite:///{home.server.parent / 'log.db'}"

    def run(*more: str) -> Any:
        return runner.invoke(app, ["feedback", "import", str(file), "-c", str(home.server), *more])

    def count() -> int:
        with open_log(url) as log:
            return len(imported_ids(log, "support"))

    assert run().exit_code == 2, "consent is never assumed"
    assert isinstance(run("--consent", "store").exception, ConfigError)
    refused = run("--consent", "train")
    assert isinstance(refused.exception, InvalidInput)
    assert "1 items were not understood, and nothing was imported" in str(refused.exception)
    assert "line 2: answer: needs" in refused.stderr
    assert "fields left unread: extra" in refused.stderr
    assert count() == 0
    assert run("--consent", "train", "--skip-bad", "--dry-run").exit_code == 0
    assert count() == 0
    done = run("--consent", "train", "--skip-bad")
    assert done.exit_code == 0
    assert done.stdout == "imported 1 votes for support, tenant support\n"
    assert count() == 1
    again = run("--consent", "train", "--skip-bad")
    assert "left out: 1 imported_before" in again.stderr
    assert again.stdout.startswith("imported 0 votes")
    with pytest.raises(ConfigError, match="no policy 'other'"):
        raise run("--consent", "train", "--policy", "other").exception
