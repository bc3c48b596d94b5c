"""`attune dead-letter`: what it shows and what it does, on an embedded log."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from deploy.cli import app
from exchange.log.port import TopicPartition
from exchange.open import open_log
from schemas.errors import InvalidInput, NotFound, Refused
from schemas.topics import DEAD_LETTER, FEEDBACK
from schemas.wire import LogRecord, encode_event
from tests.golden.samples import SAMPLES


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A trainer's file, whose log holds a letter that can be read by now, one that cannot, and a hostile one."""
    path = tmp_path / "trainer.toml"
    path.write_text('model = "none"\nlog = "sqlite:///log.db"\n')
    good = encode_event(SAMPLES["feedback_thumbs"])
    notes = [
        (("attune_origin", f"{FEEDBACK.name}/0@{number}".encode()), ("attune_reason", reason))
        for number, reason in enumerate([b"not known here", b"no JSON", b"\x1b[31m[bold]red"])
    ]
    bodies = [(good.value, good.headers), (b"\xff\x00", good.headers), (b"{}", ())]
    with open_log(f"sqlite:///{tmp_path / 'log.db'}") as log:
        log.append(
            [
                LogRecord(DEAD_LETTER.name, good.key, value, (*headers, *note))
                for (value, headers), note in zip(bodies, notes, strict=True)
            ]
        )
    return path


def attune(*words: str) -> Result:
    return CliRunner().invoke(app, ["dead-letter", *words], env={"COLUMNS": "250"}, catch_exceptions=False)


def test_list_and_show(config: Path) -> None:
    shown = attune("list", "-c", str(config)).output
    assert "attune.feedback/0@0" in shown
    assert "not known here" in shown
    assert "[bold]red" in shown
    assert "\x1b" not in shown
    thumb = encode_event(SAMPLES["feedback_thumbs"])
    one = attune("show", "0", "-c", str(config)).output
    assert thumb.value.decode() in one
    assert "ce_type: attune.feedback.received.v1" in one
    assert "attune_reason" not in one
    assert "\nff00\n" in attune("show", "1", "-c", str(config)).output
    with pytest.raises(NotFound, match="no dead letter 7"):
        attune("show", "7", "-c", str(config))


def test_replay_puts_back_what_can_be_read_once(config: Path) -> None:
    first = attune("replay", "--all", "-c", str(config))
    assert first.exit_code == 0
    lines = first.output.splitlines()
    assert lines[0].startswith("0: now attune.feedback/")
    assert lines[1].startswith("1: not replayed: the body is no valid")
    assert lines[2] == "2: not replayed: the record has no ce_type header"
    assert attune("replay", "0", "-c", str(config)).output == "0: replayed before\n"
    with open_log(f"sqlite:///{config.parent / 'log.db'}") as log:
        ends = {
            number: log.end_offset(TopicPartition(FEEDBACK.name, number)) for number in log.partitions(FEEDBACK.name)
        }
        assert sum(ends.values()) == 1
    with pytest.raises(Refused, match="1 of 1 letters"):
        attune("replay", "1", "-c", str(config))
    with pytest.raises(InvalidInput, match="--all"):
        attune("replay", "-c", str(config))
