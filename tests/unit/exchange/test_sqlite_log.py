"""The SQLite log among processes: nothing lost between them, nothing lost with one that is killed."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import textwrap
import time
from collections import defaultdict
from contextlib import closing
from pathlib import Path

import pytest

from exchange.log.port import RecordsLost, StoredRecord, TopicPartition, partition_for
from exchange.log.sqlite import SqliteLog
from schemas.errors import ConfigError, Unavailable
from schemas.topics import COMPLETIONS
from schemas.wire import LogRecord

WRITER = textwrap.dedent(
    """
    import sys
    from pathlib import Path
    from exchange.log.sqlite import SqliteLog
    from schemas.wire import LogRecord

    name, batches = sys.argv[2], int(sys.argv[3])
    with SqliteLog(Path(sys.argv[1])) as log:
        for batch in range(batches):
            records = [
                LogRecord("attune.completions", f"{name}-{n}".encode(), f"{name}:{batch}:{n}".encode() + b"." * 500)
                for n in range(4)
            ]
            log.append(records)
            print(batch, flush=True)
    """
)
PLACES = {TopicPartition(COMPLETIONS.name, number): 0 for number in range(COMPLETIONS.partitions)}


def start(path: Path, name: str, batches: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, str(path), name, str(batches)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def read_all(path: Path) -> list[StoredRecord]:
    with SqliteLog(path) as log:
        reader = log.reader(PLACES)
        found: list[StoredRecord] = []
        while batch := reader.poll(max_records=500):
            found += batch
        reader.close()
    return found


def test_several_processes_append_at_once_and_nothing_is_lost(tmp_path: Path) -> None:
    """They also all create the file at once; a reader that follows meanwhile sees every record once, in order."""
    path = tmp_path / "log.db"
    started = [start(path, f"p{number}", 50) for number in range(4)]
    followed: list[StoredRecord] = []
    with SqliteLog(path) as log:
        reader = log.reader(PLACES)
        deadline = time.monotonic() + 120
        while len(followed) < 4 * 50 * 4 and time.monotonic() < deadline:
            followed += reader.poll(max_records=64, timeout_s=0.5)
        reader.close()
    for process in started:
        process.communicate(timeout=60)
    assert [process.returncode for process in started] == [0, 0, 0, 0]
    expected = {f"p{p}:{batch}:{n}" for p in range(4) for batch in range(50) for n in range(4)}
    assert {stored.value.decode().rstrip(".") for stored in followed} == expected
    assert len(followed) == len(expected)
    by_key: dict[bytes, list[int]] = defaultdict(list)
    offsets: dict[int, list[int]] = defaultdict(list)
    for stored in followed:
        by_key[stored.key].append(int(stored.value.split(b":")[1]))
        offsets[stored.position.partition].append(stored.position.offset)
    assert all(batches == list(range(50)) for batches in by_key.values())
    assert all(found == list(range(len(found))) for found in offsets.values())
    assert {stored.position for stored in read_all(path)} == {stored.position for stored in followed}


def test_what_was_acknowledged_outlives_a_killed_writer(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    writer = start(path, "w", 1_000_000)
    assert writer.stdout is not None
    acknowledged = -1
    while acknowledged < 30:
        acknowledged = int(writer.stdout.readline())
    writer.kill()
    rest = writer.communicate(timeout=60)[0].split()
    acknowledged = max([acknowledged, *(int(line) for line in rest)])
    found = [stored.value.decode().rstrip(".") for stored in read_all(path)]
    batches = sorted({int(value.split(":")[1]) for value in found})
    # Whole batches only, all that were acknowledged, and at most the one that was being acknowledged.
    assert batches in (list(range(acknowledged + 1)), list(range(acknowledged + 2)))
    assert sorted(found) == sorted(f"w:{batch}:{n}" for batch in batches for n in range(4))
    with SqliteLog(path) as log:
        ends = {place: log.end_offset(place) for place in PLACES}
        assert sum(ends.values()) == len(found)
        (position,) = log.append([LogRecord(COMPLETIONS.name, b"next", b"one")])
        assert position.offset == ends[TopicPartition(COMPLETIONS.name, position.partition)]


def test_every_append_is_synced(tmp_path: Path) -> None:
    with SqliteLog(tmp_path / "log.db") as log:
        connection = log._connection
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert connection.execute("PRAGMA synchronous").fetchone() == (2,), "FULL"


def test_a_failed_append_leaves_nothing_and_the_log_goes_on(tmp_path: Path) -> None:
    with SqliteLog(tmp_path / "log.db") as log:
        log.append([LogRecord(COMPLETIONS.name, b"k", b"before")])
        log._connection.execute("CREATE TRIGGER full BEFORE INSERT ON records WHEN NEW.value = x'626164' "
                                "BEGIN SELECT RAISE(ABORT, 'disk full'); END")  # fmt: skip
        with pytest.raises(Unavailable, match="disk full"):
            log.append([LogRecord(COMPLETIONS.name, b"k", b"good"), LogRecord(COMPLETIONS.name, b"k", b"bad")])
        log.append([LogRecord(COMPLETIONS.name, b"k", b"after")])
    assert [stored.value for stored in read_all(tmp_path / "log.db")] == [b"before", b"after"]


def test_the_folder_is_made_and_the_log_stays(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "log.db"
    with SqliteLog(path) as log:
        log.append([LogRecord(COMPLETIONS.name, b"k", b"kept")])
    assert [stored.value for stored in read_all(path)] == [b"kept"]


def test_files_that_are_no_such_log_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("not a database, " * 100)
    with pytest.raises(Unavailable, match="cannot be used"):
        SqliteLog(tmp_path / "text")
    with pytest.raises(Unavailable):
        SqliteLog(tmp_path / "text" / "below" / "log.db")
    connection = sqlite3.connect(tmp_path / "newer.db")
    connection.execute("PRAGMA user_version = 7")
    connection.close()
    with pytest.raises(ConfigError, match="layout 7"):
        SqliteLog(tmp_path / "newer.db")


def test_a_reader_is_told_what_retention_took_before_it_was_read(tmp_path: Path) -> None:
    with SqliteLog(tmp_path / "log.db") as log:
        place = TopicPartition("attune.policy", 0)
        records = [LogRecord(place.topic, b"k", str(n).encode(), (("class", b"short"),)) for n in range(5)]
        log.append(records[:3])
        behind, at_start = log.reader({place: 2}), log.reader({place: 0})
        assert log.drop(place.topic, 2**62, "class", "short") == 3
        assert log.start_offset(place) == log.end_offset(place) == 3
        with pytest.raises(RecordsLost) as raised:
            behind.poll()
        assert (raised.value.partition, raised.value.wanted, raised.value.oldest) == (place, 2, 3)
        log.append(records[3:])
        assert [stored.position.offset for stored in log.reader({place: raised.value.oldest}).poll()] == [3, 4]
        assert [stored.position.offset for stored in at_start.poll()] == [3, 4], "0 stands for what is left"


def test_a_reader_comes_to_the_end_where_the_last_records_were_dropped(tmp_path: Path) -> None:
    place = TopicPartition(COMPLETIONS.name, 0)
    key = next(b"%d" % n for n in range(1000) if partition_for(b"%d" % n, COMPLETIONS.partitions) == 0)
    with SqliteLog(tmp_path / "log.db") as log:
        log.append([LogRecord(place.topic, key, b"kept"), LogRecord(place.topic, key, b"", (("class", b"short"),))])
        assert log.drop(place.topic, 2**62, "class", "short") == 1
        with closing(log.reader({place: 0})) as reader:
            assert [stored.value for stored in reader.poll()] == [b"kept"]
            assert reader.positions() == {place: log.end_offset(place)}
            log.append([LogRecord(place.topic, key, b"next")])
            assert [stored.value for stored in reader.poll()] == [b"next"]


def test_one_poll_gives_no_more_bytes_than_memory_should_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("exchange.log.sqlite._POLL_BYTES", 1000)
    with SqliteLog(tmp_path / "log.db") as log:
        log.append([LogRecord(COMPLETIONS.name, b"%d" % n, b"." * 400) for n in range(20)])
        log.append([LogRecord(COMPLETIONS.name, b"large", b"." * 5000)])
        with closing(log.reader(PLACES)) as reader:
            sizes = [len(batch) for batch in iter(reader.poll, [])]
            assert reader.positions() == {place: log.end_offset(place) for place in PLACES}
    assert sum(sizes) == 21
    assert max(sizes) <= 3


def test_a_log_keeps_its_name_and_an_older_file_gets_one(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    with SqliteLog(path) as log:
        name = log.identity("attune.policy")
    with SqliteLog(path) as log:
        assert log.identity("attune.policy") == name
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("DROP TABLE identity")
    with SqliteLog(path) as log:
        assert log.identity("attune.policy") not in ("", name)
    with SqliteLog(tmp_path / "other.db") as log:
        assert log.identity("attune.policy") != name
