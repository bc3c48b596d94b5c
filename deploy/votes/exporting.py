"""A snapshot's labels as text, in TRL's shapes or our own: what the reward model was taught, for use elsewhere.

Knows snapshots and their content; needs the key store, so what belongs to an erased person is left out. Answers are as
they were shown, conversations as the client sent them: never decoded from tokens.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from deploy.votes.vote import BY_MODEL
from exchange.keys.port import KeyStore
from exchange.registry.port import Registry
from schemas.base import parse_version_name
from schemas.errors import Conflict, InvalidInput, NotFound
from schemas.feedback import FeedbackContent, FeedbackSource
from schemas.imported import ImportedContent
from schemas.manifests import SnapshotManifest
from trainer.snapshots.contents import Contents, Row, Unusable, read_tables


class Shape(StrEnum):
    """TRL's preference and unpaired preference shapes, conversational; or ours, which `import` reads."""

    TRL_PREFERENCE = "trl-preference"
    TRL_UNPAIRED = "trl-unpaired"
    JSONL = "jsonl"


@dataclass(frozen=True)
class _Label:
    row: Row
    messages: Sequence[Mapping[str, Any]]
    answers: tuple[str, ...]
    """The answer judged, or the better and the worse one."""
    liked: bool | None
    source: str


@dataclass
class Exported:
    """What was written, and what was left out by why."""

    written: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)


def snapshot_named(registry: Registry, policy: str, name: str | None) -> SnapshotManifest:
    """The snapshot of that digest, that a version (`POLICY@vN`) was trained on, or the newest one of the policy.

    Raises:
        NotFound: there is none.
        InvalidInput: the name is neither.
    """
    if name is None:
        mine = [one for digest in registry.snapshots() if (one := registry.snapshot(digest)).policy == policy]
        if not mine:
            raise NotFound(f"there is no snapshot of {policy} yet", remedy="The trainer cuts one when a turn begins.")
        return max(mine, key=lambda one: (one.watermark, one.digest))
    if "@" not in name:
        return registry.snapshot(name)
    named, version = parse_version_name(name)
    if version == 0:
        raise InvalidInput("v0 is the base, which learnt from no snapshot", field="snapshot")
    return registry.snapshot(registry.adapter(named, version).snapshot)


def export(folder: Path, manifest: SnapshotManifest, keys: KeyStore, shape: Shape, out: Path) -> Exported:
    """Write the labels of the snapshot in `folder` to the new file `out`, which only its owner may read.

    Raises:
        Conflict: `out` exists.
        IntegrityError: a file of the snapshot is missing or altered.
    """
    if out.exists():
        raise _taken(out)
    tables = read_tables(folder, manifest)
    exported = Exported()
    work = out.with_name(f".{out.name}.{os.getpid()}.writing")
    try:
        with os.fdopen(os.open(work, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            for line in _lines(tables, Contents(tables, keys), shape, exported):
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
        os.link(work, out)  # unlike a rename, it refuses to replace
    except FileExistsError as error:
        raise _taken(out) from error
    finally:
        work.unlink(missing_ok=True)
    return exported


def _taken(out: Path) -> Conflict:
    return Conflict(f"{out} exists", field="out", remedy="Name another file; none is ever replaced.")


def _lines(
    tables: Mapping[str, list[Row]], contents: Contents, shape: Shape, exported: Exported
) -> Iterator[dict[str, Any]]:
    readers = {
        "pairs.parquet": _pair,
        "thumbs.parquet": _thumb,
        "corrections.parquet": _correction,
        "imported.parquet": _imported,
    }
    for name, reader in readers.items():
        for row in tables[name]:
            try:
                label = reader(row, contents)
            except Unusable as unusable:
                exported.left_out[str(unusable)] += 1
                continue
            if label.source == FeedbackSource.AI and shape is not Shape.JSONL:
                exported.left_out[BY_MODEL] += 1  # there is no place to say so
                continue
            kind = "thumbs" if label.liked is not None else "preferences"
            if shape is Shape.JSONL or (shape is Shape.TRL_UNPAIRED) == (kind == "thumbs"):
                exported.written[kind] += 1
                yield _ours(label) if shape is Shape.JSONL else _trl(label)
            else:
                exported.left_out[f"{kind}_have_no_place"] += 1


def _pair(row: Row, contents: Contents) -> _Label:
    if row["tie"]:
        raise Unusable("tie")
    messages, chosen = _shown(contents, row["chosen_completion"], row["chosen_choice"])
    _, rejected = _shown(contents, row["rejected_completion"], row["rejected_choice"])
    return _Label(row, messages, (chosen, rejected), None, row["source"])


def _thumb(row: Row, contents: Contents) -> _Label:
    if row["liked"] is None:
        raise Unusable("three_stars")
    messages, answer = _shown(contents, row["completion_id"], row["choice"])
    return _Label(row, messages, (answer,), row["liked"], row["source"])


def _correction(row: Row, contents: Contents) -> _Label:
    messages, original = _shown(contents, row["completion_id"], row["choice"])
    edited = contents.opened(row, FeedbackContent).correction
    if not edited:
        raise Unusable("unreadable")
    return _Label(row, messages, (edited, original), None, row["source"])


def _imported(row: Row, contents: Contents) -> _Label:
    content = contents.opened(row, ImportedContent)
    messages = [message.model_dump() for message in content.messages]
    return _Label(row, messages, content.answers, row["liked"], row["source"])


def _shown(contents: Contents, completion_id: str, choice: int) -> tuple[Sequence[Mapping[str, Any]], str]:
    content = contents.completion(completion_id)
    text = next((one.text for one in content.choices if one.index == choice), "")
    if not text:
        raise Unusable("no_text")
    return content.messages, text


def _trl(label: _Label) -> dict[str, Any]:
    said = [[{"role": "assistant", "content": answer}] for answer in label.answers]
    if label.liked is not None:
        return {"prompt": label.messages, "completion": said[0], "label": label.liked}
    return {"prompt": label.messages, "chosen": said[0], "rejected": said[1]}


def _ours(label: _Label) -> dict[str, Any]:
    """With the person's pseudonym, so that they can be found and taken out of the file."""
    about = {"user": label.row["group"], "at": label.row["at"], "source": label.source}
    if label.liked is not None:
        return {"messages": label.messages, "answer": label.answers[0], "liked": label.liked, **about}
    return {"messages": label.messages, "chosen": label.answers[0], "rejected": label.answers[1], **about}
