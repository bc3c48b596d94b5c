"""The operators' commands against a live server with real files: what they print, and what they did."""

from __future__ import annotations

import json
import shutil
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from deploy.cli import app
from exchange.log.port import TopicPartition
from exchange.privacy.backups import check_backup
from schemas.completion import CompletionRecorded
from schemas.errors import Conflict
from schemas.topics import COMPLETIONS
from schemas.wire import decode_event
from tests.live import Live, live_server, running


def attune(live: Live, *words: str, code: int = 0) -> str:
    """What a command prints, wrapped nowhere."""
    environment = {"COLUMNS": "300", "ATTUNE_URL": live.url, "ATTUNE_API_KEY": live.home.admin_key}
    result = CliRunner().invoke(app, words, env=environment, catch_exceptions=False)
    assert result.exit_code == code, result.output
    return " ".join(result.output.split())


def visit(live: Live, user: str) -> str:
    """A chat with a thumb; returns the id of the feedback."""
    asked = {"model": "support", "messages": [{"role": "user", "content": f"I am {user}"}], "user": user}
    handle = live.post("/v1/chat/completions", asked)["attune"]["handles"][0]
    told = live.post("/v1/feedback", {"handle": handle, "kind": "thumbs", "value": "up"})
    return str(told["id"])


def completions(live: Live) -> list[CompletionRecorded]:
    places = {TopicPartition(COMPLETIONS.name, number): 0 for number in live.log.partitions(COMPLETIONS.name)}
    with closing(live.log.reader(places)) as reader:
        events: list[Any] = [decode_event(one.value, one.headers) for one in reader.poll(max_records=10_000)]
    return events


def test_the_operators_commands_on_a_running_server(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with live_server(home) as live:
        files = ("-c", str(live.home.server), "-t", str(live.home.trainer))
        ann, bob = visit(live, "ann"), visit(live, "bob")
        live.settle()

        # collect: answers nobody asked for, at full distribution, from where it stopped
        prompts = tmp_path / "prompts.jsonl"
        prompts.write_text(
            "".join(json.dumps({"messages": [{"role": "user", "content": f"q{n}"}]}) + "\n" for n in "ab")
        )
        collect = ("collect", "--prompts", str(prompts), "--n", "2", "--rate", "1000", "--anytime")
        assert "4 answers to 2 prompts" in attune(live, *collect, "--limit", "4")
        assert "6 answers to 2 prompts" in attune(live, *collect, "--limit", "6")
        live.settle()
        collected = [event for event in completions(live) if event.domain == "collected"]
        assert [len(event.choices) for event in collected] == [2, 2, 2]
        assert all(event.sampling.full_distribution for event in collected)

        # trace, before and after a turn; by the server, and from the files alone
        assert "no turn of the trainer has begun since" in attune(live, "feedback", "trace", ann)
        digest = live.turn(tmp_path / "turn", 1)
        for where in ((), ("-c", str(live.home.trainer))):
            told = attune(live, "feedback", "trace", ann, *where)
            assert "thumbs on support accepted" in told
            assert f"first in snapshot {digest[:12]}" in told
            assert "in_version: It taught support@v1." in told

        # raters: quarantined by an operator, told by the doctor, released
        told = attune(live, "raters", "quarantine", "--user", "bob", "--why", "the same on everything")
        pseudonym = told.split()[0]
        assert "is quarantined since" in told
        live.settle()
        assert "1 raters are quarantined; 1 words of theirs" in attune(
            live, "doctor", "-c", str(live.home.trainer), code=1
        )
        assert f"{pseudonym} │ quarantined" in attune(live, "raters", "list")
        assert "is believed since" in attune(live, "raters", "release", pseudonym, "--why", "it was a test")
        told = attune(live, "raters", "show", pseudonym)
        assert told.index("the same on everything") < told.index("it was a test")
        live.settle()

        # doctor: beside both, in words, and for scripts
        told = attune(live, "doctor", "-c", str(live.home.trainer), "-c", str(live.home.server), code=1)
        assert "funnel 9 answered, 0 displayed, 2 rated, 2 joined" in told
        assert "2 new usable labels since the last turn, and a turn begins at 200" in told
        found = json.loads(attune(live, "doctor", "-c", str(live.home.trainer), "--json", code=1))
        assert found["funnel"]["rated"] == 2

        # backup, while all of it runs
        vault = home / "backups" / "monday"
        assert "files, " in attune(live, "backup", str(vault), *files)
        assert {"ledger.db", "log.db", "keys.db"} <= check_backup(vault).files.keys()

        # erase: here, in the backup, in the ledger; and what it cannot undo
        told = attune(live, "erase", "ann")
        assert "key destroyed | all" in told.replace("│", "|")
        assert "ledger rows are tombstones | support" in told.replace("│", "|")
        assert "learnt from this person: support@v1" in told
        assert "destroying data does not untrain a model" in told
        erasure = told.partition("erasure ")[2].split()[0]
        assert erasure in attune(live, "erase", "--status", erasure)
        known = live.ledger.known()
        assert ann in known.erased_feedback
        assert [word.id for word in known.feedback] == [bob]
        (people,) = ({one.end_user for one in known.completions} - {None},)
        assert len(people) == 1
        with pytest.raises(Conflict, match="already there"):
            attune(live, "restore", str(vault), *files)

    # restore, after everything was lost but the log
    kept = {path.name for path in home.glob("*.toml")} | {"backups", "log.db", "log.db-wal", "log.db-shm"}
    for path in home.iterdir():
        if path.name not in kept:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    lost = ("ledger.db", "registry", "secrets.json", "api-keys.json", "keys.db")
    only = [word for name in lost for word in ("--only", name)]
    assert f"restored {', '.join(lost)}" in attune(live, "restore", str(vault), *files, *only)
    with running(live.home) as again:
        again.settle()
        assert [word.id for word in again.ledger.known().feedback] == [bob], "read from the log again: ann stays erased"
        visit(again, "bob")
