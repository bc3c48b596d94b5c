"""The files of a spool: segments that are written once, in order, and cut where a write failed; the cursor, which says
how far they are delivered; and the lock on them all.

Knows bytes and the file system; what the bytes mean is `exchange.log.frames`' matter.
"""

from __future__ import annotations

import fcntl
import json
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from exchange.durable import sync_folder
from schemas.errors import ConfigError

_SUFFIX = ".frames"


@dataclass
class Segment:
    """One file. Bytes behind `size` are what a failed write left: they are never read."""

    number: int
    path: Path
    size: int
    torn: bool = False
    _file: int | None = None

    @property
    def writable(self) -> bool:
        """Whether it may still be appended to: this process began it, and no write to it has failed."""
        return self._file is not None

    def append(self, data: bytes) -> None:
        """Write and fsync. Where that raises OSError nothing was appended, and nothing ever will be: after a failed
        fsync nobody knows what of the last bytes is on disk.
        """
        assert self._file is not None, "only what is writable is written"  # noqa: S101
        self.torn = True
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(self._file, view) :]
            os.fsync(self._file)
        except OSError:
            self.end()
            self.cut()
            raise
        self.torn = False
        self.size += len(data)

    def cut(self) -> None:
        """Take off what lies behind the last whole write. Raises OSError where that fails; `torn` then stays."""
        os.truncate(self.path, self.size)
        self.torn = False

    def read(self, offset: int) -> bytes:
        """The bytes from `offset` to the end. Raises OSError."""
        with self.path.open("rb") as file:
            file.seek(offset)
            return file.read(self.size - offset)

    def end(self) -> None:
        """Append no more."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def delete(self) -> None:
        """End it and delete the file; harmless where it is gone."""
        self.end()
        self.path.unlink(missing_ok=True)


def begin_segment(folder: Path, number: int) -> Segment:
    """A new, empty segment whose name is on disk. Raises OSError."""
    path = folder / f"{number:012d}{_SUFFIX}"
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
    try:
        sync_folder(folder)
    except OSError:
        os.close(file)
        raise
    return Segment(number, path, 0, _file=file)


def found_segments(folder: Path) -> list[Segment]:
    """The segments that lie there, oldest first, none of them writable. Raises OSError."""
    found: list[Segment] = []
    for path in sorted(path for path in folder.glob(f"*{_SUFFIX}") if path.stem.isdecimal()):
        with suppress(FileNotFoundError):  # delivered meanwhile, where another process uses the spool
            found.append(Segment(int(path.stem), path, path.stat().st_size))
    return found


def read_cursor(folder: Path) -> tuple[int, int]:
    """A segment's number and how many bytes of it are delivered; those before it are. 0 and 0 where nothing can be
    read that says so: more is then sent again than must be. Raises OSError.
    """
    try:
        noted = json.loads((folder / "cursor").read_text(encoding="utf-8"))
        return int(noted["segment"]), int(noted["offset"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return 0, 0


def write_cursor(folder: Path, segment: int, offset: int) -> None:
    """Note what `read_cursor` gives. Without an fsync: a power loss may bring an older one back. Raises OSError."""
    written = folder / "cursor.new"
    written.write_text(json.dumps({"segment": segment, "offset": offset}))
    written.replace(folder / "cursor")


def hold_folder(folder: Path) -> int:
    """Lock a folder until the returned file is closed or this process ends.

    Raises:
        ConfigError: another process holds it.
        OSError: the lock cannot be written.
    """
    held = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.read(held, 20).decode("ascii", "replace").strip() or "unknown"
        os.close(held)
        raise ConfigError(
            f"the spool {folder} is in use by another process (pid {holder})",
            field="server.data_dir",
            remedy="Give every server a data_dir of its own, or stop the other one first.",
        ) from error
    os.ftruncate(held, 0)
    os.write(held, str(os.getpid()).encode())
    return held
