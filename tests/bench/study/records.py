"""The study's results: one JSON object a line, one line a run, written as soon as the run is over.

Several processes may share a folder: a world is worked on by whoever holds its lock. Knows files alone.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.bench.study.plan import Job


class Records:
    """All records in a folder."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._path = folder, folder / "runs.jsonl"

    def all(self) -> list[dict[str, Any]]:
        """Every whole record, sorted by its job; a line that a crash tore is left out, the first of a job counts."""
        found: dict[str, dict[str, Any]] = {}
        for line in self._path.read_text("utf-8").splitlines() if self._path.exists() else ():
            with suppress(ValueError):
                record = json.loads(line)
                found.setdefault(record["job"], record)
        return [found[name] for name in sorted(found)]

    def has(self, job: Job) -> bool:
        """Whether it was run."""
        return any(record["job"] == job.name for record in self.all())

    def add(self, job: Job, record: dict[str, Any]) -> None:
        """Keep a record."""
        line = json.dumps({"job": job.name, "batch": job.batch, **_rounded(record)}, sort_keys=True)
        with self._path.open("a", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.write(f"\n{line}\n")  # on a line of its own, whatever a crash left before it

    @contextmanager
    def holding(self, name: str) -> Iterator[bool]:
        """Whether this process may work on the world of that name, until the block ends or the process dies."""
        with (self._folder / f"{name}.lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True


def _rounded(value: Any) -> Any:
    """Floats to five significant digits: what is measured is not known better."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {name: _rounded(one) for name, one in value.items()}
    return [_rounded(one) for one in value] if isinstance(value, list) else value
