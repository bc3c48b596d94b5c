"""Backups: databases, folders and files copied into one folder while they are in use, and put back.

    backup.json            every file below with its digest, written last: a backup without one is no backup
    NAME, NAME/...         the parts

Knows bytes, SQLite's backup API and digests; what the parts are is the caller's matter, and so is their order. One part
is special: keys of people who are erased later must go from the backups within reach too (`destroy_in_backups`), else
the copy would undo the erasure. Backups out of reach are handled when they come back: a restore replays all erasures.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from exchange.durable import write_whole
from exchange.keys.sqlite import SqliteKeys
from schemas.base import Millis, Record, now_ms
from schemas.errors import Conflict, IntegrityError, NotFound, Unavailable
from schemas.manifests import FileDigest, canonical_json

MARKER = "backup.json"
KEYS = "keys.db"
"""The part that holds the key store."""


@dataclass(frozen=True)
class Part:
    """One thing to keep: `name` in the backup, `path` where it lives."""

    name: str
    kind: Literal["database", "folder", "file"]
    path: Path

    def in_the_way(self) -> Path | None:
        """What lies where it would be restored to; the journals of a lost database would spoil the restored one."""
        suffixes = ("", "-wal", "-shm", "-journal") if self.kind == "database" else ("",)
        return next((path for suffix in suffixes if (path := Path(f"{self.path}{suffix}")).exists()), None)


class BackupManifest(Record):
    """What a backup holds."""

    made_at: Millis
    files: dict[str, FileDigest] = Field(description="by name relative to the backup's folder")


def make_backup(folder: Path, parts: Sequence[Part]) -> BackupManifest:
    """Copy the parts, in their order, into the new folder; a part that is not there is left out.

    Only the owner may read the folder: it holds keys.

    Raises:
        Conflict: the folder exists.
        Unavailable: something cannot be read or written.
    """
    if folder.exists():
        raise Conflict(f"{folder} is already there", remedy="A backup is never written over another: name a new one.")
    try:
        folder.mkdir(parents=True, mode=0o700)
        for part in parts:
            if part.path.exists():
                _COPY[part.kind](part.path, folder / part.name)
        manifest = BackupManifest(made_at=now_ms(), files={name: _digest(folder / name) for name in _names(folder)})
        write_whole(folder / MARKER, canonical_json(manifest))
    except (OSError, sqlite3.Error) as error:
        raise Unavailable(f"the backup {folder} cannot be made: {error}") from error
    return manifest


def check_backup(folder: Path) -> BackupManifest:
    """The manifest of a backup, after every byte was compared with it.

    Raises:
        NotFound: there is no complete backup.
        IntegrityError: a file is missing, too many or altered.
    """
    manifest = _manifest(folder)
    found = {name for name in _names(folder) if name != MARKER}
    if found != manifest.files.keys():
        raise IntegrityError(f"{folder} lacks or has too many files: {min(found ^ manifest.files.keys())}")
    for name, expected in manifest.files.items():
        if _digest(folder / name) != expected:
            raise IntegrityError(f"the bytes of {name} in {folder} are not those that were backed up")
    return manifest


def restore(folder: Path, part: Part, prepare: Callable[[Path], None] | None = None) -> bool:
    """Put one part of a checked backup back; False where the backup does not have it.

    Args:
        prepare: called with the copy before it takes its place; where it raises, nothing does.

    Raises:
        Conflict: something is in its place already.
        Unavailable: it cannot be written.
    """
    source = folder / part.name
    if not source.exists():
        return False
    check_room(part)
    staging = part.path.with_name(f".{part.path.name}.restoring")
    try:
        part.path.parent.mkdir(parents=True, exist_ok=True)
        _remove(staging)
        if part.kind == "folder":
            shutil.copytree(source, staging)
        else:
            shutil.copy2(source, staging)  # its mode comes along: keys and secrets stay private
        if prepare is not None:
            prepare(staging)
        staging.rename(part.path)
    except OSError as error:
        raise Unavailable(f"{part.path} cannot be restored: {error}") from error
    finally:
        _remove(staging)
    return True


def check_room(part: Part) -> None:
    """Raises Conflict where something lies where a part would be restored to."""
    if (found := part.in_the_way()) is not None:
        raise Conflict(f"{found} is already there", remedy="Nothing is overwritten: move it away first.")


def destroy_in_backups(root: Path, subject: str, until_ms: int) -> int:
    """Destroy a person's keys in every backup right under `root`; returns how many there were.

    Raises:
        Unavailable: a key store there cannot be used.
    """
    destroyed = 0
    for marker in sorted(root.glob(f"*/{MARKER}")):
        store = marker.with_name(KEYS)
        if store.exists():
            with closing(SqliteKeys(store)) as keys:
                destroyed += len(keys.destroy(subject, until_ms=until_ms))
            # Also where nothing was destroyed now: a crash may have come between the two the last time.
            manifest = _manifest(marker.parent)
            files = {**manifest.files, KEYS: _digest(store)}
            if files != manifest.files:
                write_whole(marker, canonical_json(manifest.model_copy(update={"files": files})))
    return destroyed


def _manifest(folder: Path) -> BackupManifest:
    try:
        return BackupManifest.model_validate_json((folder / MARKER).read_bytes())
    except FileNotFoundError as error:
        raise NotFound(f"{folder} is no complete backup: it has no {MARKER}") from error
    except ValidationError as error:
        raise IntegrityError(f"{folder / MARKER} cannot be read") from error


def _copy_database(source: Path, target: Path) -> None:
    """A consistent copy of a SQLite file while others write to it."""
    os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    with closing(sqlite3.connect(source, timeout=30.0)) as live, closing(sqlite3.connect(target)) as copy:
        live.backup(copy)
        copy.execute("PRAGMA journal_mode = DELETE")  # one file, whatever mode the original is in


def _copy_folder(source: Path, target: Path) -> None:
    """A folder whose files never change and whose JSON markers come last (`exchange.registry.files`).

    Listed twice: a marker that the first look saw has all its files in the second, and later markers are left out.
    """
    before = set(_names(source))
    for name in _names(source):
        if name in before or not name.endswith(".json"):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source / name, target / name)


def _copy_file(source: Path, target: Path) -> None:
    shutil.copy2(source, target)


_COPY: dict[str, Callable[[Path, Path], None]] = {
    "database": _copy_database,
    "folder": _copy_folder,
    "file": _copy_file,
}


def _names(folder: Path) -> list[str]:
    """Relative names of all files, without what is just being written (`.staging-...`, `*.tmp`)."""
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(
        path.as_posix() for path in found if path.suffix != ".tmp" and not any(p.startswith(".") for p in path.parts)
    )


def _digest(path: Path) -> FileDigest:
    with path.open("rb") as file:
        return FileDigest(sha256=hashlib.file_digest(file, "sha256").hexdigest(), size=file.tell())


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
