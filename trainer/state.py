"""The trainer's own folder: who it is, and the turn it is in, so that a restart goes on where it stopped.

Layout: `holder` (this trainer's id), `lock`, `turn/` (the turn in progress: `turn.json` and one folder or file for
each finished step), `last.json` (what to remember of the turn before), `cache/` (what was fetched from the registry).
Knows files; knows nothing of learning.
"""

from __future__ import annotations

import fcntl
import shutil
from pathlib import Path
from typing import IO, Self, TypeVar

from pydantic import Field, ValidationError

from exchange.durable import write_whole
from schemas.base import Record, Sha256, VersionNumber, new_id
from schemas.errors import ConfigError, IntegrityError
from schemas.manifests import canonical_json
from trainer.snapshots.news import Mark

_R = TypeVar("_R", bound=Record)


class TurnState(Record):
    """The turn in progress. Which steps are done shows in the files beside it."""

    parent: VersionNumber = Field(description="the stable version that it continues from")
    snapshot: Sha256
    mark: Mark | None = Field(default=None, description="of its snapshot; None: written before there were marks")
    reserved: VersionNumber | None = Field(default=None, description="the version number taken for its candidate")
    keys: int = Field(default=0, ge=0, description="keys that opened its snapshot when it began")
    settings: Sha256 | None = Field(
        default=None, description="digest of what its steps are made under; None: written before that was kept"
    )


class LastTurn(Record):
    """What the trainer remembers of the last finished turn."""

    snapshot: Sha256
    mark: Mark | None = Field(default=None, description="of its snapshot; None: written before there were marks")
    accuracy: float | None = Field(default=None, description="held-out accuracy of its reward model, 0..1")
    reward_model: Sha256 | None = Field(default=None, description="its digest in the registry")


class StateDir:
    """One trainer's folder, locked while it is open: two processes with one folder would be one lease holder.

    Raises:
        ConfigError: another process has it open.
    """

    def __init__(self, path: Path) -> None:
        path.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._lock: IO[bytes] = (path / "lock").open("ab")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._lock.close()
            raise ConfigError(
                f"another trainer works in {path}",
                field="state_dir",
                remedy="Stop it, or give this one a state_dir of its own.",
            ) from error

    @property
    def turn_dir(self) -> Path:
        """Folder of the turn in progress."""
        return self.path / "turn"

    @property
    def snapshot(self) -> Path:
        """Folder of its snapshot."""
        return self.turn_dir / "snapshot"

    @property
    def _turn_file(self) -> Path:
        return self.turn_dir / "turn.json"

    @property
    def cache(self) -> Path:
        """Folder for adapters and reward models fetched from the registry."""
        return self.path / "cache"

    def holder(self) -> str:
        """This trainer's id: made once, kept in the folder, so that a restart takes its own lease up again."""
        file = self.path / "holder"
        if not file.exists():
            write_whole(file, new_id("trainer").encode())
        return file.read_text(encoding="ascii").strip()

    def turn(self) -> TurnState | None:
        """The turn in progress; None where there is none."""
        return _read(self._turn_file, TurnState)

    def save_turn(self, turn: TurnState) -> None:
        """Begin a turn, or note what has changed in it."""
        self.turn_dir.mkdir(parents=True, exist_ok=True)
        write_whole(self._turn_file, canonical_json(turn))

    def forget_steps(self) -> None:
        """Remove all that was made in the turn in progress but its snapshot; a crash in between repeats this."""
        for path in self.turn_dir.iterdir():
            if path.is_dir() and path != self.snapshot:
                shutil.rmtree(path)
            elif path.is_file() and path != self._turn_file:
                path.unlink()

    def last(self) -> LastTurn | None:
        """The last finished turn; None before the first."""
        return _read(self.path / "last.json", LastTurn)

    def finish(self, last: LastTurn) -> None:
        """End the turn in progress and remember it; a crash in between repeats this, nothing else."""
        write_whole(self.path / "last.json", canonical_json(last))
        self.drop_turn()

    def drop_turn(self) -> None:
        """Forget the turn in progress."""
        # The marker goes first: what is left without it is swept away by the next turn.
        self._turn_file.unlink(missing_ok=True)
        shutil.rmtree(self.turn_dir, ignore_errors=True)

    def close(self) -> None:
        self._lock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_beside(path: Path) -> tuple[str | None, LastTurn | None]:
    """The holder's id and the last turn in a trainer's folder, without its lock: for those who only look.

    Raises:
        IntegrityError: a file there is damaged.
    """
    file = path / "holder"
    holder = file.read_text(encoding="ascii", errors="replace").strip() if file.is_file() else None
    return holder, _read(path / "last.json", LastTurn)


def _read(path: Path, model: type[_R]) -> _R | None:
    if not path.exists():
        return None
    try:
        return model.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise IntegrityError(f"{path} is damaged", remedy="Remove it; the turn begins anew.") from error
