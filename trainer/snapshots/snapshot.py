"""Cuts an immutable preference snapshot: Parquet files with content still sealed, and a manifest.

The same facts give the same files byte for byte: rows in a fixed order, fixed encodings, no timestamps. Content comes
along sealed, so a person erased later is erased from every snapshot too. Knows the ledger and Parquet; chooses nothing
itself (`trainer.joining.join`, `trainer.snapshots.selection`, `trainer.snapshots.examples`).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import JsonValue

from exchange.guidance import in_force
from schemas.errors import Conflict
from schemas.manifests import (
    FileDigest,
    GuidanceManifest,
    OffsetRange,
    SnapshotManifest,
    canonical_json,
    files_digest,
)
from schemas.sealed import Sealed
from trainer.intake.facts import Answer
from trainer.intake.ledger import Ledger
from trainer.joining.contradictions import Same, by_key
from trainer.joining.eligibility import Scope
from trainer.joining.exclusions import EXPLANATIONS, Exclusion, count_reasons
from trainer.joining.funnel import funnel
from trainer.joining.join import Joined, join, without_contradictions
from trainer.quality.agreement import agreement
from trainer.snapshots.examples import Rows, rows_of
from trainer.snapshots.selection import Selection, SnapshotSettings, select

_LABEL = [
    ("feedback_id", pa.string()),
    ("at", pa.int64()),
    ("group", pa.string()),
    ("kind", pa.string()),
    ("source", pa.string()),
    ("heldout", pa.string()),
]
_SEALED = [("event_id", pa.string()), ("subject", pa.string()), ("key_id", pa.string()), ("data", pa.string())]
_ANSWER = [("completion_id", pa.string()), ("choice", pa.int32())]
SLICED_BY = ("language", "domain", "tenant")
"""What groups of completions are compared by. Snapshots of earlier versions of Attune say nothing of it."""
SCHEMAS: Mapping[str, Any] = {
    "pairs.parquet": pa.schema(
        [
            *_LABEL,
            ("number", pa.int32()),
            ("chosen_completion", pa.string()),
            ("chosen_choice", pa.int32()),
            ("rejected_completion", pa.string()),
            ("rejected_choice", pa.int32()),
            ("tie", pa.bool_()),
            ("weight", pa.float64()),
        ]
    ),
    "thumbs.parquet": pa.schema(
        [*_LABEL, *_ANSWER, ("liked", pa.bool_()), ("weight", pa.float64()), ("stars", pa.int32())]
    ),
    "corrections.parquet": pa.schema([*_LABEL, *_ANSWER, *_SEALED]),
    "aspects.parquet": pa.schema([*_LABEL, *_ANSWER, ("aspect", pa.string()), ("value", pa.float64())]),
    "answers.parquet": pa.schema(
        [
            *_ANSWER,
            ("finished_at", pa.int64()),
            ("group", pa.string()),
            ("version", pa.int32()),
            ("temperature", pa.float64()),
            ("top_p", pa.float64()),
            ("top_k", pa.int32()),
            ("logprobs", pa.binary()),
            ("heldout", pa.string()),
        ]
    ),
    "imported.parquet": pa.schema([*_LABEL, ("liked", pa.bool_()), *_SEALED]),
    "completions.parquet": pa.schema(
        [
            ("completion_id", pa.string()),
            ("version", pa.int32()),
            *_SEALED,
            *((name, pa.string()) for name in SLICED_BY),
        ]
    ),
    "exclusions.parquet": pa.schema([("item", pa.string()), ("id", pa.string()), ("reason", pa.string())]),
}
"""Columns of each file. `completions` holds the sealed content that the others name by completion id."""
ADDED_LATER = frozenset({"aspects.parquet", "imported.parquet"})
"""Files that snapshots of earlier versions of Attune do not have."""
ABOUT = "about.json"
"""The manifest of the files above, stored among them."""


Identify = Callable[[Iterable[Answer]], Same]


@dataclass(frozen=True)
class Snapshot:
    """A snapshot as cut: its manifest, and the join it came from."""

    manifest: SnapshotManifest
    joined: Joined


def cut_snapshot(
    ledger: Ledger,
    scope: Scope,
    settings: SnapshotSettings,
    out: Path,
    *,
    since: int | None = None,
    guidance: Sequence[GuidanceManifest] = (),
    identify: Identify = lambda _: by_key,
) -> Snapshot:
    """Write the files of a snapshot into `out`, an empty or missing folder. Publish it with
    `registry.publish_snapshot(out, snapshot.manifest)`.

    Args:
        since: watermark of the last snapshot that was learnt from (ms since the epoch), None where there is none.
        guidance: all that is published of the policy's; the manifest names what was in force.
        identify: tells of answers which are the same; by default each is like no other.

    Raises:
        Conflict: `out` holds something.
    """
    out.mkdir(parents=True, exist_ok=True)
    if any(out.iterdir()):
        raise Conflict(f"{out} is not empty", remedy="A snapshot is never written over another.")
    while True:
        known = ledger.known()
        joined = join(known, scope, settings.feedback_window_ms)
        same = identify(answer for word in joined.words for answer in word.answers)
        joined = without_contradictions(joined, same)
        selection = select(joined, settings, since)
        rows = rows_of(selection, joined.settled, settings)
        used = _answers_used(selection)
        wanted = [*(answer.completion.id for answer in used), *(row.feedback_id for row in rows.corrections)]
        wanted += [vote.id for vote in selection.imported]
        sealed = ledger.sealed(wanted)
        # An erasure read meanwhile by another thread takes content away: then the facts have changed as well.
        if sealed.keys() >= {answer.completion.id for answer in used}:
            break
    exclusions = sorted((*joined.exclusions, *selection.exclusions))
    tables = {**_tables(rows, used, sealed, exclusions), "imported.parquet": _imported(selection, sealed)}
    files = {name: _write(out / name, tables[name], SCHEMAS[name]) for name in SCHEMAS}
    filters: dict[str, JsonValue] = {**settings.model_dump(mode="json"), **asdict(scope), "since": since}
    about = SnapshotManifest(
        policy=ledger.policy,
        digest=files_digest(files),
        files=files,
        offsets={str(place): OffsetRange(start=0, end=end) for place, end in sorted(known.offsets.items())},
        watermark=known.watermark,
        feedback_window_ms=settings.feedback_window_ms,
        counts=_counts(rows, selection, tables),
        counts_by_version=dict(sorted(Counter(answer.completion.version for answer in used).items())),
        counts_by_language=_count(answer.completion.language for answer in used),
        counts_by_domain=_count(answer.completion.domain for answer in used),
        excluded={
            f"{item}.{reason}": count
            for item in ("answer", "feedback")
            for reason, count in count_reasons(exclusions, item).items()
        },
        filters=filters,
        words_by_source=_count(str(word.feedback.source) for word in selection.spoken),
        words_by_language=_count(word.answers[0].completion.language for word in selection.spoken),
        words_by_domain=_count(word.answers[0].completion.domain for word in selection.spoken),
        funnel={**funnel(joined).stages(), "reward_model": len(selection.words), "ppo": len(selection.answers)},
        agreement=agreement(selection.words, same),
        reasons={str(reason): EXPLANATIONS[reason] for reason in sorted({one.reason for one in exclusions})},
        guidance=in_force(
            guidance, min((word.feedback.at for word in selection.spoken), default=known.watermark), known.watermark
        ),
    )
    # Beside the rows, so that the snapshot's digest names their origin too: equal rows read from more of a log are
    # another snapshot, with a manifest of its own.
    (out / ABOUT).write_bytes(canonical_json(about))
    files |= {ABOUT: _digest(out / ABOUT)}
    return Snapshot(about.model_copy(update={"files": files, "digest": files_digest(files)}), joined)


def _answers_used(selection: Selection) -> list[Answer]:
    """Every answer that a row names, once, by id."""
    spoken_of = [answer for word in selection.spoken for answer in word.answers]
    return [answer for _, answer in sorted({answer.key: answer for answer in (*spoken_of, *selection.answers)}.items())]


def _tables(
    rows: Rows, used: Sequence[Answer], sealed: Mapping[str, Sealed], exclusions: Sequence[Exclusion]
) -> dict[str, list[dict[str, Any]]]:
    completions = {answer.completion.completion_id: answer.completion for answer in used}
    return {
        "pairs.parquet": [vars(row) for row in rows.pairs],
        "thumbs.parquet": [vars(row) for row in rows.thumbs],
        "corrections.parquet": [
            {**vars(row), "event_id": row.feedback_id, **sealed[row.feedback_id].model_dump()}
            for row in rows.corrections
            if row.feedback_id in sealed
        ],
        "aspects.parquet": [vars(row) for row in rows.aspects],
        "answers.parquet": [vars(row) for row in rows.answers],
        "completions.parquet": [
            {
                "completion_id": name,
                "version": completion.version,
                "event_id": completion.id,
                **sealed[completion.id].model_dump(),
                **{by: getattr(completion, by) for by in SLICED_BY},
            }
            for name, completion in sorted(completions.items())
        ],
        "exclusions.parquet": [vars(exclusion) for exclusion in exclusions],
    }


def _imported(selection: Selection, sealed: Mapping[str, Sealed]) -> list[dict[str, Any]]:
    return [
        {
            "feedback_id": vote.id,
            "at": vote.at,
            "group": vote.speaker(),
            "kind": vote.kind,
            "source": vote.source,
            "heldout": "",
            "liked": vote.liked,
            "event_id": vote.id,
            **sealed[vote.id].model_dump(),
        }
        for vote in selection.imported
        if vote.id in sealed
    ]


def _write(path: Path, rows: list[dict[str, Any]], schema: Any) -> FileDigest:
    table = pa.Table.from_pylist(rows, schema=schema)
    pq.write_table(
        table,
        path,
        row_group_size=10_000,
        version="2.6",
        data_page_version="1.0",
        compression="zstd",
        compression_level=3,
        use_dictionary=False,
        write_statistics=False,
        store_schema=False,
    )
    return _digest(path)


def _digest(path: Path) -> FileDigest:
    data = path.read_bytes()
    return FileDigest(sha256=hashlib.sha256(data).hexdigest(), size=len(data))


def _counts(rows: Rows, selection: Selection, tables: Mapping[str, list[dict[str, Any]]]) -> dict[str, int]:
    kinds = Counter(f"words.{word.feedback.signal.kind}" for word in selection.spoken)
    heldout = {
        f"heldout_{name}": sum(bool(row.heldout) for row in getattr(rows, name))
        for name in ("pairs", "thumbs", "corrections", "aspects", "answers")
    }
    files = {name.removesuffix(".parquet"): len(table) for name, table in tables.items()}
    return dict(sorted((files | heldout | {"words": len(selection.spoken)} | kinds).items()))


def _count(names: Iterable[str | None]) -> dict[str, int]:
    return dict(sorted(Counter(name or "unspecified" for name in names).items()))
