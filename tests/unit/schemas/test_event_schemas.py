"""The JSON Schemas that others read: every golden keeps to its own, and they can refuse."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest

from deploy.docs import FOLDER as DOCS
from schemas.event import Event
from schemas.events import EVENTS
from schemas.journal import JournalEntry
from schemas.wire import JOURNAL_TYPE, encode_event
from tests.golden.samples import FOLDER, SAMPLES

EVENT_NAMES = sorted(name for name, sample in SAMPLES.items() if isinstance(sample, Event))


def schema_of(name: str) -> dict[str, Any]:
    sample = SAMPLES[name]
    wire_type = JOURNAL_TYPE if isinstance(sample, JournalEntry) else sample.wire_type()
    found: dict[str, Any] = json.loads((DOCS / "schemas" / f"{wire_type}.json").read_text())
    return found


@pytest.mark.parametrize("name", EVENT_NAMES)
def test_goldens_and_what_is_written_keep_to_the_schema(name: str) -> None:
    validator = jsonschema.Draft202012Validator(schema_of(name))
    validator.validate(json.loads((FOLDER / f"{name}.json").read_text()))
    written = json.loads(encode_event(SAMPLES[name]).value)
    validator.validate(written)
    validator.validate(written | {"invented_later": 1})
    assert not validator.is_valid(written | {"at": "yesterday"})
    assert not validator.is_valid({field: value for field, value in written.items() if field != "id"})


def test_every_event_has_a_valid_schema_and_a_golden() -> None:
    files = {path.stem: json.loads(path.read_text()) for path in (DOCS / "schemas").glob("*.json")}
    assert set(EVENTS) | {JOURNAL_TYPE} <= set(files)
    for schema in files.values():
        jsonschema.Draft202012Validator.check_schema(schema)
