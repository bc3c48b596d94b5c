"""What the policy journal said last, kept on this replica's disk: what it serves when it starts and the log is away.

Knows the state of policies and one small file, written anew as a whole. A hint and no authority: as soon as the journal
can be read, only the journal counts.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from exchange.durable import write_whole
from schemas.lifecycle import Lease, PolicyState

log = logging.getLogger(__name__)

_STATES = TypeAdapter(dict[str, PolicyState])


class LastServed:
    """The file at `path`. For one thread at a time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._kept: dict[str, PolicyState] = {}

    def load(self) -> Mapping[str, PolicyState]:
        """The states that were kept, by policy; none where there is no file that can be read."""
        try:
            return _STATES.validate_json(self._path.read_bytes())
        except FileNotFoundError:
            return {}
        except (OSError, ValidationError) as error:
            log.warning("%s cannot be read, so with the log away the base is served: %s", self._path, error)
            return {}

    def keep(self, states: Iterable[PolicyState]) -> None:
        """Keep these, where they differ from what was kept last. Blocks; a disk that refuses is only logged."""
        # Who may make versions changes every few seconds, and nothing is served by it.
        new = {state.policy: state.model_copy(update={"lease": Lease()}) for state in states}
        if new == self._kept:
            return
        try:
            write_whole(self._path, _STATES.dump_json(new))
        except OSError as error:
            log.warning("what is served could not be kept in %s: %s", self._path, error)
        else:
            self._kept = new
