"""Records too large for a log: stored beside it, claimed, and never a reason to stop reading."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from exchange.log.checks import record_bytes
from exchange.log.claims import Blobs, ClaimingLog
from exchange.log.memory import MemoryLog
from exchange.log.port import StoredRecord, TopicPartition
from exchange.privacy.retention import expire_log
from schemas.errors import InvalidInput, Unavailable
from schemas.topics import COMPLETIONS, DEAD_LETTER, POLICY
from schemas.wire import CLAIM_HEADER, LogRecord, decode_event, encode_event, header
from tests.golden.samples import COMPLETION

LARGE = encode_event(COMPLETION)
SMALL = LogRecord(POLICY.name, b"k", b"small", (("n", b"1"),))


def claiming(below: MemoryLog, root: Path) -> ClaimingLog:
    root.mkdir(exist_ok=True)
    return ClaimingLog(below, Blobs(LocalFileSystem(), str(root)), lambda record: record_bytes(record) < 100)


def everything(log: MemoryLog | ClaimingLog, topic: str = COMPLETIONS.name) -> list[StoredRecord]:
    reader = log.reader({TopicPartition(topic, number): 0 for number in log.partitions(topic)})
    return reader.poll()


def blobs(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*") if path.is_file())


def test_a_large_value_lies_beside_the_log_and_is_read_back_whole(tmp_path: Path) -> None:
    below = MemoryLog()
    log = claiming(below, tmp_path / "registry")
    log.append([LARGE, SMALL, LARGE])
    on_log = everything(below)
    assert all(record_bytes(LogRecord(COMPLETIONS.name, r.key, r.value)) < 200 for r in on_log)
    assert everything(below, POLICY.name)[0].value == b"small"
    found = everything(log)
    assert [(stored.key, stored.value, stored.headers) for stored in found] == [
        (LARGE.key, LARGE.value, LARGE.headers)
    ] * 2
    assert [stored.position for stored in found] == [stored.position for stored in on_log]
    assert decode_event(found[0].value, found[0].headers) == COMPLETION
    (only,) = blobs(tmp_path / "registry")
    assert only.read_bytes() == LARGE.value, "equal values are stored once"


def hide(path: Path) -> None:
    path.unlink()


def alter(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[10] ^= 1
    path.write_bytes(bytes(data))


def lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"x")


@pytest.mark.parametrize("harm", [hide, alter, lengthen])
def test_a_claim_on_what_is_missing_or_altered_is_refused_by_its_reader_and_stops_nothing(  # type: ignore[no-untyped-def]
    tmp_path: Path, harm
) -> None:
    log = claiming(MemoryLog(), tmp_path / "registry")
    log.append([LARGE])
    harm(*blobs(tmp_path / "registry"))
    log.append([LogRecord(COMPLETIONS.name, LARGE.key, b"next")])
    stored, following = everything(log)
    with pytest.raises(InvalidInput, match="missing or altered"):
        decode_event(stored.value, stored.headers)
    assert following.value == b"next"


@pytest.mark.parametrize("claim", ["", "sha256:../../etc/passwd:10", f"sha256:{'0' * 64}:99999999999", "sha256:zz:1"])
def test_a_forged_claim_reads_nothing(tmp_path: Path, claim: str) -> None:
    below = MemoryLog()
    below.append([LogRecord(COMPLETIONS.name, b"k", b"forged", ((CLAIM_HEADER, claim.encode()),))])
    (stored,) = everything(claiming(below, tmp_path / "registry"))
    assert (stored.value, header(stored.headers, CLAIM_HEADER)) == (b"forged", claim)


def test_a_store_that_is_away_holds_the_reader_where_it_stands(tmp_path: Path) -> None:
    log = claiming(MemoryLog(), tmp_path / "registry")
    first = LogRecord(COMPLETIONS.name, LARGE.key, b"first")
    log.append([first, LARGE, first])
    place = next(place for place in (TopicPartition(COMPLETIONS.name, n) for n in range(6)) if log.end_offset(place))
    reader = log.reader({place: 0})
    (tmp_path / "registry").rename(tmp_path / "away")
    assert [stored.value for stored in reader.poll()] == [b"first"]
    for _ in range(2):
        with pytest.raises(Unavailable, match="store of large records"):
            reader.poll()
        assert reader.positions() == {place: 1}
    (tmp_path / "away").rename(tmp_path / "registry")
    assert [stored.value for stored in reader.poll(max_records=1)] == [LARGE.value]
    assert reader.positions() == {place: 2}
    assert [stored.value for stored in reader.poll()] == [b"first"]


def test_what_cannot_be_stored_is_not_claimed(tmp_path: Path) -> None:
    below = MemoryLog()
    log = claiming(below, tmp_path / "registry")
    (tmp_path / "registry" / "claims").write_text("no folder")
    with pytest.raises(Unavailable):
        log.append([LARGE])
    assert everything(below) == []


def test_a_dead_letter_that_kept_its_claim_finds_the_content_where_it_came_from(tmp_path: Path) -> None:
    below = MemoryLog()
    log = claiming(below, tmp_path / "registry")
    log.append([LARGE])
    (claim,) = everything(below)
    origin = ("attune_origin", f"{COMPLETIONS.name}/0@0".encode())
    below.append([LogRecord(DEAD_LETTER.name, claim.key, claim.value, (*claim.headers, origin))])
    (letter,) = everything(log, DEAD_LETTER.name)
    assert letter.value == LARGE.value


def test_values_go_when_their_topic_would_have_let_them_go(tmp_path: Path) -> None:
    log = claiming(MemoryLog(), tmp_path / "registry")
    old, new = LARGE, LogRecord(COMPLETIONS.name, LARGE.key, LARGE.value + b" ")
    log.append([old])
    (path,) = blobs(tmp_path / "registry")
    days = 32 * 24 * 3600
    os.utime(path, (path.stat().st_mtime - days,) * 2)
    log.append([new])
    assert expire_log(log, {}) == {"claimed": 1}, "whatever retention classes the settings name"
    assert [stored.read_bytes() for stored in blobs(tmp_path / "registry")] == [new.value]


def test_an_object_store_keeps_them_too() -> None:
    filesystem = MemoryFileSystem()
    filesystem.makedirs("/registry", exist_ok=True)
    log = ClaimingLog(MemoryLog(), Blobs(filesystem, "/registry"), lambda record: False)
    log.append([LARGE])
    assert [stored.value for stored in everything(log)] == [LARGE.value]
    (path,) = filesystem.find("/registry/claims")
    filesystem.rm_file(path)
    (stored,) = everything(log)
    with pytest.raises(InvalidInput):
        decode_event(stored.value, stored.headers)
