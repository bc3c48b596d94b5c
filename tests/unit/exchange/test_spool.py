"""The spool: order, restarts, torn tails, damage, the cap and full disks."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exchange.log.frames import MAGIC, Damage, Frame, encode_frame, scan
from exchange.log.spool import Spool
from schemas.errors import ConfigError
from schemas.topics import COMPLETIONS, FEEDBACK
from schemas.wire import LogRecord

RECORDS = st.builds(
    LogRecord,
    topic=st.sampled_from([COMPLETIONS.name, FEEDBACK.name]),
    key=st.binary(max_size=8),
    value=st.binary(max_size=40),
    headers=st.lists(st.tuples(st.text(max_size=5), st.binary(max_size=8)), max_size=3).map(tuple),
)


def record(value: str, size: int = 0, topic: str = FEEDBACK.name) -> LogRecord:
    return LogRecord(topic, b"key", value.encode().ljust(size, b"."), (("ce_id", value.encode()),))


def said(records: Sequence[LogRecord]) -> list[str]:
    return [one.value.decode().rstrip(".") for one in records]


def drain(spool: Spool, batch: int = 1000) -> list[LogRecord]:
    found: list[LogRecord] = []
    while records := spool.peek(batch, 2**30):
        found += records
        spool.delivered(len(records))
    return found


@contextmanager
def spool_of(data: bytes) -> Iterator[tuple[Spool, Path]]:
    """A spool that finds one segment with these bytes."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "000000000007.frames").write_bytes(data)
        with Spool(folder) as spool:
            yield spool, folder


def aside(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted((folder / "damaged").glob("*"))]


def test_records_come_back_in_order_and_are_gone_once_delivered(tmp_path: Path) -> None:
    with Spool(tmp_path, segment_bytes=300) as spool:
        records = [record(str(n), 50) for n in range(20)]
        for start in range(0, 20, 4):
            assert spool.append(records[start : start + 4]) == [None] * 4
        assert spool.size_bytes > 20 * 50
        assert len(list(tmp_path.glob("*.frames"))) == 5
        assert said(spool.peek(3, 2**20)) == ["0", "1", "2"]
        assert said(spool.peek(1000, 120)) == ["0", "1"], "bounded in bytes"
        assert said(spool.peek(1000, 1)) == ["0"], "at least one"
        spool.delivered(3)
        assert drain(spool) == records[3:]
        assert (spool.empty, spool.size_bytes, spool.oldest_at) == (True, 0, None)
        assert list(tmp_path.glob("*.frames")) == []
        spool.append([record("again")])
        assert said(drain(spool)) == ["again"]


def test_a_disk_that_became_read_only_stops_no_delivery(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_only(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    with Spool(tmp_path, segment_bytes=300) as spool:
        records = [record(str(n), 200) for n in range(6)]
        for one in records:
            spool.append([one])
        with monkeypatch.context() as patch:
            patch.setattr(Path, "unlink", read_only)
            assert drain(spool) == records
        assert spool.empty
    with Spool(tmp_path) as again:
        assert again.peek(10, 2**20) == [], "the cursor knows that they were delivered"


def test_a_restart_goes_on_where_the_log_stood(tmp_path: Path) -> None:
    with Spool(tmp_path, segment_bytes=200) as spool:
        spool.append([record(str(n), 50) for n in range(3)])
        spool.append([record(str(n), 50) for n in range(3, 6)])
        spool.peek(1000, 2**20)
        spool.delivered(2)
        began = spool.oldest_at
    with Spool(tmp_path, segment_bytes=200) as spool:
        assert spool.oldest_at == began
        spool.append([record("6")])
        assert said(drain(spool, batch=2)) == ["2", "3", "4", "5", "6"]
    with Spool(tmp_path) as spool:
        assert spool.empty
        spool.append([record("7")])
    with Spool(tmp_path) as spool:
        assert said(drain(spool)) == ["7"]


def test_a_kill_at_any_moment_loses_nothing_that_was_appended(tmp_path: Path) -> None:
    """What lies on disk after each step is what a process killed then leaves."""
    images: list[tuple[Path, list[str], list[str]]] = []

    def image(appended: int, delivered: int) -> None:
        copy = tmp_path / f"image-{len(images)}"
        shutil.copytree(tmp_path / "spool", copy)
        images.append((copy, [str(n) for n in range(delivered, appended)], [str(n) for n in range(appended)]))

    with Spool(tmp_path / "spool", segment_bytes=250) as spool:
        for n in range(12):
            spool.append([record(str(n), 50)])
            image(n + 1, n // 2)
            if n % 2:
                spool.delivered(1)
                image(n + 1, n // 2 + 1)
    for folder, missing, everything in images:
        with Spool(folder) as spool:
            found = said(drain(spool))
        assert found == missing
        assert found == everything[len(everything) - len(found) :]


def test_an_unreadable_cursor_only_sends_again(tmp_path: Path) -> None:
    with Spool(tmp_path) as spool:
        spool.append([record("a"), record("b")])
        spool.delivered(1)
    (tmp_path / "cursor").write_bytes(b"\0\0\0")
    with Spool(tmp_path) as spool:
        assert said(drain(spool)) == ["a", "b"]


@settings(deadline=None, max_examples=12)
@given(st.lists(RECORDS, min_size=1, max_size=4))
def test_a_tail_torn_at_any_byte_is_cut_at_the_last_whole_record(records: list[LogRecord]) -> None:
    frames = [encode_frame(one, 1) for one in records]
    data = b"".join(frames)
    ends = [sum(map(len, frames[: n + 1])) for n in range(len(frames))]
    for cut in range(len(data)):
        whole = sum(end <= cut for end in ends)
        found = list(scan(data[:cut]))
        assert [one.record for one in found if isinstance(one, Frame)] == records[:whole]
    with spool_of(data[: len(data) - 1]) as (spool, folder):
        rest = len(data) - 1 - ([0, *ends][len(frames) - 1])
        assert spool.size_bytes == len(data) - 1 - rest
        assert (folder / "000000000007.frames").stat().st_size == spool.size_bytes
        spool.append([record("after")])
        assert drain(spool) == [*records[:-1], record("after")]
        assert [len(bytes_) for bytes_ in aside(folder)] == [rest]


@settings(deadline=None, max_examples=12)
@given(st.lists(RECORDS, min_size=2, max_size=4), st.integers(1, 255))
def test_a_byte_altered_anywhere_costs_its_own_record_only(records: list[LogRecord], flip: int) -> None:
    frames = [encode_frame(one, 1) for one in records]
    data = b"".join(frames)
    start = 0
    for number, frame in enumerate(frames):
        for place in range(start, start + len(frame)):
            altered = bytearray(data)
            altered[place] ^= flip
            found = list(scan(bytes(altered)))
            others = [*records[:number], *records[number + 1 :]]
            assert [one.record for one in found if isinstance(one, Frame)] == others
            assert [one for one in found if isinstance(one, Damage)] == [Damage(start, start + len(frame))]
        start += len(frame)


def test_damage_in_the_middle_is_kept_aside_and_counted(tmp_path: Path) -> None:
    frames = [encode_frame(record(name, 30), 1) for name in "abc"]
    data = bytearray(b"".join(frames))
    data[len(frames[0]) + 5] ^= 1
    with spool_of(bytes(data)) as (spool, folder):
        assert said(drain(spool)) == ["a", "c"]
        assert spool.damaged == 1
        assert aside(folder) == [bytes(data[len(frames[0]) : len(frames[0]) + len(frames[1])])]
        assert spool.empty


def test_a_segment_of_rubbish_stops_nothing() -> None:
    with spool_of(MAGIC * 50) as (spool, folder):
        assert aside(folder) == [MAGIC * 50]
        assert drain(spool) == []
        spool.append([record("fine")])
        assert said(drain(spool)) == ["fine"]


def test_two_processes_may_not_use_one_spool(tmp_path: Path) -> None:
    with Spool(tmp_path), pytest.raises(ConfigError, match=rf"in use by another process \(pid {os.getpid()}\)"):
        Spool(tmp_path)
    Spool(tmp_path).close()


def test_the_cap_keeps_the_oldest_and_leaves_room_for_feedback(tmp_path: Path) -> None:
    with Spool(tmp_path, max_bytes=1000) as spool:
        completions = [record(str(n), 200, COMPLETIONS.name) for n in range(5)]
        refusals = spool.append(completions)
        assert [refusal and refusal.reason for refusal in refusals] == [None, None, None, "spool_full", "spool_full"]
        assert spool.has_room()
        assert spool.append([record("small", 50)]) == [None]
        (refusal,) = spool.append([record("large", 300)])
        assert refusal is not None
        assert "spool.max_bytes" in str(refusal)
        assert "1000 bytes" in str(refusal)
        assert said(drain(spool)) == ["0", "1", "2", "small"]
        assert spool.append(completions[:1]) == [None]


class Disk:
    """`os.write` and `os.fsync` of a disk that fills up: writes half of what it gets and then refuses."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.full = self.unsynced = False
        write, fsync = os.write, os.fsync

        def writing(file: int, data: bytes) -> int:
            if self.full and len(data) < 10:
                raise OSError(errno.ENOSPC, "No space left on device")
            return write(file, data[: len(data) // 2] if self.full else data)

        def syncing(file: int) -> None:
            if self.unsynced:
                raise OSError(errno.EIO, "Input/output error")
            fsync(file)

        monkeypatch.setattr("exchange.log.segments.os.write", writing)
        monkeypatch.setattr("exchange.log.segments.os.fsync", syncing)


def test_a_full_disk_refuses_and_leaves_no_torn_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(monkeypatch)
    with Spool(tmp_path) as spool:
        spool.append([record("before")])
        size = spool.size_bytes
        disk.full = True
        refusals = spool.append([record("lost", 100), record("too", 100)])
        assert [refusal and refusal.reason for refusal in refusals] == ["disk", "disk"]
        assert "No space left" in str(refusals[0])
        assert sum(path.stat().st_size for path in tmp_path.glob("*.frames")) == size == spool.size_bytes
        disk.full = False
        assert spool.has_room(), "the disk says that there is room again"
        assert spool.append([record("after")]) == [None]
    with Spool(tmp_path) as spool:
        assert said(drain(spool)) == ["before", "after"]
        assert spool.damaged == 0


def test_what_could_not_be_cut_at_once_is_cut_before_the_next_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(monkeypatch)
    with Spool(tmp_path) as spool:
        spool.append([record("before")])
        disk.full = True
        with monkeypatch.context() as broken:

            def refuse(path: object, size: int) -> None:
                raise OSError(errno.EIO, "Input/output error")

            broken.setattr("exchange.log.segments.os.truncate", refuse)
            assert spool.append([record("torn", 100)])[0] is not None
            assert spool.append([record("still", 100)])[0] is not None
        disk.full = False
        assert said(spool.peek(10, 1000)) == ["before"], "what is torn is never read"
        assert spool.append([record("after")]) == [None]
        assert said(drain(spool)) == ["before", "after"]


def test_a_failed_fsync_is_a_failed_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(monkeypatch)
    with Spool(tmp_path) as spool:
        spool.append([record("before")])
        disk.unsynced = True
        assert spool.append([record("nobody knows")])[0] is not None
        disk.unsynced = False
        spool.append([record("after")])
        assert said(drain(spool)) == ["before", "after"]
        assert spool.empty


def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(ConfigError, match="cannot be used"):
        Spool(tmp_path / "file" / "spool")
