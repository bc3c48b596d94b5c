"""The JSON Schema of every event and version, for readers in other languages: docs/schemas/TYPE.json.

They describe what is written. Unknown fields are allowed: changes within a major version add some.
"""

from __future__ import annotations

import json
from typing import Any

from schemas.events import EVENTS
from schemas.journal import ENTRY
from schemas.wire import JOURNAL_TYPE

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def event_schemas() -> dict[str, dict[str, Any]]:
    """The schema of each event's body, by its `ce_type`."""
    bodies = {name: event.model_json_schema(mode="serialization") for name, event in EVENTS.items()}
    bodies[JOURNAL_TYPE] = ENTRY.json_schema(mode="serialization")
    return {name: {"$schema": DIALECT, "$id": f"urn:attune:{name}", **body} for name, body in bodies.items()}


def schema_pages() -> dict[str, str]:
    """The files under docs/, by their path there."""
    return {
        f"schemas/{name}.json": json.dumps(schema, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
        for name, schema in event_schemas().items()
    }
