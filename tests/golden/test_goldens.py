"""Goldens are kept for good: what was ever written must parse to the same thing for ever."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from schemas.events import EVENTS
from schemas.journal import ENTRY, JournalEntry
from schemas.wire import JOURNAL_TYPE, decode_event, encode_event
from tests.golden.samples import FOLDER, SAMPLES, missing


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.json")), ids=lambda path: path.stem)
def test_golden_parses_to_its_sample_and_writes_the_same(path: Path) -> None:
    sample = SAMPLES[path.stem]
    golden = json.loads(path.read_text())
    parsed = ENTRY.validate_python(golden) if isinstance(sample, JournalEntry) else type(sample).model_validate(golden)
    assert parsed == sample
    # Additive changes may add fields to what is written; none may change or vanish.
    assert _within(golden, parsed.model_dump(mode="json"))


def _within(golden: object, written: object) -> bool:
    """Whether everything in `golden` is in `written`, unchanged, at any depth."""
    if isinstance(golden, dict) and isinstance(written, dict):
        return all(name in written and _within(value, written[name]) for name, value in golden.items())
    if isinstance(golden, list) and isinstance(written, list):
        return len(golden) == len(written) and all(map(_within, golden, written))
    return golden == written


def test_every_contract_has_a_golden() -> None:
    assert missing() == []
    sampled = {type(sample) for sample in SAMPLES.values()}
    assert set(EVENTS.values()) <= sampled
    entries = {case["properties"]["entry"]["const"] for case in ENTRY.json_schema()["$defs"].values()}
    assert entries == {sample.entry for sample in SAMPLES.values() if isinstance(sample, JournalEntry)}


@pytest.mark.parametrize("name", [name for name in SAMPLES if not name.endswith("manifest")])
def test_wire_round_trip(name: str) -> None:
    event = SAMPLES[name]
    record = encode_event(event, source="attune/test")
    assert decode_event(record.value, record.headers) == event
    headers = {key: value.decode() for key, value in record.headers}
    assert headers["ce_specversion"] == "1.0"
    assert headers["ce_subject"] == "support"
    assert headers["ce_time"].startswith("2026-09-21T")
    expected = JOURNAL_TYPE if isinstance(event, JournalEntry) else event.wire_type()
    assert headers["ce_type"] == expected


def test_unknown_fields_of_a_newer_minor_version_are_accepted() -> None:
    record = encode_event(SAMPLES["completion"])
    body = json.loads(record.value) | {"invented_later": 1}
    assert decode_event(json.dumps(body).encode(), record.headers) == SAMPLES["completion"]
