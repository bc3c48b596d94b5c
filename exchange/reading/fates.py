"""What became of a word of feedback, from the registry alone: which snapshots hold it, which versions they made.

A snapshot is immutable and holds every word known when it was cut: in its rows, or in its exclusions with the reason.
Its manifest says which offsets of the log had been read, so a word's place on the log tells exactly which snapshots
could know it. Ids are kept as columns in memory, by snapshot, up to a bound. Knows registry, manifests and Parquet;
opens no content and knows no person.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from exchange.reading.accepted import AcceptedWord
from exchange.registry.port import Registry
from schemas.base import version_name
from schemas.errors import IntegrityError, NotFound
from schemas.fates import Accepted, Excluded, Fate, FateStatus, Joined
from schemas.manifests import SnapshotManifest

log = logging.getLogger(__name__)

WAITING = frozenset({"no_completion", "window_open", "unknown_feedback"})
"""Reasons of exclusion that may pass: a later snapshot may take the word."""
_ROWS = ("pairs.parquet", "thumbs.parquet", "corrections.parquet")
_LATER_ROWS = ("aspects.parquet",)
"""Not in snapshots of earlier versions of Attune."""
_EXCLUSIONS = "exclusions.parquet"
_MAX_MANIFESTS = 10_000
_MAX_SNAPSHOTS = 200
"""Looked at for one word, oldest first, and the newest always."""
_MAX_FILE_BYTES = 256 * 2**20


@dataclass(frozen=True)
class _Index:
    """The ids of one snapshot, as columns."""

    training: Any
    held_out: Any
    excluded: Any
    reasons: Any

    @property
    def size(self) -> int:
        return sum(column.nbytes for column in (self.training, self.held_out, self.excluded, self.reasons))


@dataclass(frozen=True)
class _Verdict:
    """What one snapshot says of a word: held (out), or a reason; neither for what it took note of and needs no row."""

    snapshot: SnapshotManifest
    held: bool
    held_out: bool
    reason: str | None


class Fates:
    """Reads fates. Thread-safe; blocks, so never call it from an event loop.

    Args:
        cache_bytes: ids kept in memory between calls.
    """

    def __init__(self, registry: Registry, *, cache_bytes: int = 64 * 2**20) -> None:
        self._registry = registry
        self._cache_bytes = cache_bytes
        self._lock = threading.Lock()
        self._manifests: OrderedDict[str, SnapshotManifest] = OrderedDict()
        self._made_from: OrderedDict[tuple[str, int], str] = OrderedDict()
        self._indexes: OrderedDict[str, _Index] = OrderedDict()

    def of(self, word: AcceptedWord) -> Fate:
        """What became of a word.

        Raises:
            Unavailable: the registry cannot be reached.
        """
        with self._lock:
            knowing, complete = self._knowing(word)
            verdicts: list[_Verdict] = []
            for manifest in knowing:
                try:
                    verdicts.append(self._verdict(manifest, word))
                except (IntegrityError, NotFound) as error:
                    log.warning("snapshot %s cannot be looked at: %s", manifest.digest[:12], error)
                    complete = False
            holding = [verdict for verdict in verdicts if verdict.held]
            made = self._versions(word.event.policy) if holding else []
        trained = {verdict.snapshot.digest for verdict in holding if not verdict.held_out}
        judged = {verdict.snapshot.digest for verdict in holding if verdict.held_out}
        return _fate(
            word,
            verdicts,
            versions=tuple(version for version, snapshot in made if snapshot in trained),
            judged=tuple(version for version, snapshot in made if snapshot in judged),
            complete=complete,
        )

    def _knowing(self, word: AcceptedWord) -> tuple[list[SnapshotManifest], bool]:
        """The snapshots that were cut after the word had been read, oldest first; whether they are all."""
        place = f"{word.position.topic}/{word.position.partition}"
        found: list[SnapshotManifest] = []
        complete = True
        for digest in self._registry.snapshots():
            try:
                manifest = self._manifest(digest)
            except (IntegrityError, NotFound) as error:
                log.warning("the manifest of snapshot %s cannot be read: %s", digest[:12], error)
                complete = False
                continue
            read = manifest.offsets.get(place)
            if manifest.policy == word.event.policy and read is not None and word.position.offset < read.end:
                found.append(manifest)
        found.sort(key=lambda manifest: (manifest.watermark, manifest.digest))
        if len(found) > _MAX_SNAPSHOTS:
            return [*found[: _MAX_SNAPSHOTS - 1], found[-1]], False
        return found, complete

    def _verdict(self, manifest: SnapshotManifest, word: AcceptedWord) -> _Verdict:
        index = self._index(manifest)
        name = pa.scalar(word.event.id, index.training.type)
        training, held_out = (pc.index(column, name).as_py() >= 0 for column in (index.training, index.held_out))
        at = pc.index(index.excluded, name).as_py()
        # A retraction that took its word back is in no row and excluded by no reason: it is heeded, wherever it is.
        held = training or held_out or (word.event.signal.kind == "retraction" and at < 0)
        return _Verdict(manifest, held, held_out, index.reasons[at].as_py() if at >= 0 else None)

    def _versions(self, policy: str) -> list[tuple[str, str]]:
        """The published versions, oldest first, each with the digest of its snapshot."""
        found: list[tuple[str, str]] = []
        for number in self._registry.versions(policy):
            made_from = self._made_from.get((policy, number))
            if made_from is None:
                try:
                    made_from = self._registry.adapter(policy, number).snapshot
                except (IntegrityError, NotFound) as error:
                    log.warning("the manifest of %s cannot be read: %s", version_name(policy, number), error)
                    continue
                self._made_from[policy, number] = made_from
                _trim(self._made_from, _MAX_MANIFESTS)
            found.append((version_name(policy, number), made_from))
        return found

    def _manifest(self, digest: str) -> SnapshotManifest:
        manifest = self._manifests.get(digest)
        if manifest is None:
            manifest = self._manifests[digest] = self._registry.snapshot(digest)
            _trim(self._manifests, _MAX_MANIFESTS)
        return manifest

    def _index(self, manifest: SnapshotManifest) -> _Index:
        index = self._indexes.pop(manifest.digest, None) or self._read(manifest)
        self._indexes[manifest.digest] = index  # the last used at the end
        while len(self._indexes) > 1 and sum(one.size for one in self._indexes.values()) > self._cache_bytes:
            self._indexes.popitem(last=False)
        return index

    def _read(self, manifest: SnapshotManifest) -> _Index:
        names = [*_ROWS, *(name for name in _LATER_ROWS if name in manifest.files)]
        rows = pa.concat_tables([self._table(manifest, name, ["feedback_id", "heldout"]) for name in names])
        excluded = self._table(manifest, _EXCLUSIONS, ["item", "id", "reason"])
        excluded = excluded.filter(pc.equal(excluded["item"], "feedback"))
        training = pc.equal(rows["heldout"], "")
        return _Index(
            training=rows.filter(training)["feedback_id"].combine_chunks(),
            held_out=rows.filter(pc.invert(training))["feedback_id"].combine_chunks(),
            excluded=excluded["id"].combine_chunks(),
            reasons=excluded["reason"].combine_chunks().dictionary_encode(),
        )

    def _table(self, manifest: SnapshotManifest, name: str, columns: Sequence[str]) -> Any:
        about = manifest.files.get(name)
        if about is None or about.size > _MAX_FILE_BYTES:
            raise IntegrityError(f"{name} is missing in snapshot {manifest.digest}, or larger than is read here")
        data = self._registry.read_artifact_file("snapshots", manifest.digest, name)
        try:
            table = pq.read_table(pa.BufferReader(data), columns=list(columns))
        except pa.ArrowException as error:
            raise IntegrityError(f"{name} of snapshot {manifest.digest} cannot be read") from error
        if table.column_names != list(columns):
            raise IntegrityError(f"{name} of snapshot {manifest.digest} has other columns than this code knows")
        return table


def _trim(cache: OrderedDict[Any, Any], limit: int) -> None:
    while len(cache) > limit:
        cache.popitem(last=False)


def _fate(
    word: AcceptedWord,
    verdicts: Sequence[_Verdict],
    *,
    versions: tuple[str, ...],
    judged: tuple[str, ...],
    complete: bool,
) -> Fate:
    newest = verdicts[-1] if verdicts else None
    first = next((verdict for verdict in verdicts if verdict.held), None)
    excluded = None
    if newest is not None and not newest.held:
        reason = newest.reason or "unusable"
        explanation = newest.snapshot.reasons.get(reason, reason.replace("_", " "))
        excluded = Excluded(snapshot=newest.snapshot.digest, reason=reason, explanation=explanation)
    if newest is None or (excluded is not None and excluded.reason in WAITING):
        status = FateStatus.WAITING
    elif excluded is not None:
        status = FateStatus.EXCLUDED
    else:
        status = FateStatus.IN_VERSION if versions or judged else FateStatus.IN_SNAPSHOT
    place, joined = word.position, None
    if first is not None:
        about = first.snapshot
        joined = Joined(snapshot=about.digest, watermark=about.watermark, held_out=first.held_out)
    fate = Fate(
        id=word.event.id,
        policy=word.event.policy,
        kind=word.event.signal.kind,
        status=status,
        explanation="",
        accepted=Accepted(at=word.stored_at, topic=place.topic, partition=place.partition, offset=place.offset),
        joined=joined,
        excluded=excluded,
        versions=versions,
        judged=judged,
        complete=complete,
    )
    return fate.model_copy(update={"explanation": _in_words(fate)})


def _in_words(fate: Fate) -> str:
    if fate.status is FateStatus.WAITING:
        if fate.excluded is not None:
            return f"It waits: {fate.excluded.explanation}."
        return (
            "It waits: it is safe on the log, and no turn of the trainer has begun since. A turn begins when the "
            "feedback window of enough new words has passed."
        )
    if fate.excluded is not None:
        taught = f" It had taught {_listed(fate.versions)} before." if fate.versions else ""
        return f"It is left out: {fate.excluded.explanation}.{taught}"
    if fate.kind == "retraction":
        return "It is heeded: nothing is learnt any more from the word that it takes back."
    said = []
    if fate.versions:
        said.append(f"It taught {_listed(fate.versions)}.")
    if fate.judged:
        said.append(f"It was held out, to judge the reward model, when {_listed(fate.judged)} was made.")
    if not said:
        said.append("It is in a snapshot; no version that passed its gates has come of that yet.")
    return " ".join(said)


def _listed(versions: tuple[str, ...]) -> str:
    later = len(versions) - 1
    return versions[0] if not later else f"{versions[0]} and {later} version{'s' if later > 1 else ''} after it"
