"""Opens a snapshot: unseals its content with the key store and makes the learner's plain token data of it.

The only place where the trainer sees content. What cannot be opened because its person was erased is dropped and
counted. Token ids stay as the engine logged them; only a corrected text, which no engine sampled, is tokenised here.
"""

from __future__ import annotations

import hashlib
import logging
import struct
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from pydantic import ValidationError

from exchange.keys import KeyStore, SubjectKey
from schemas.completion import CompletionContent
from schemas.errors import IntegrityError, SealBroken
from schemas.feedback import FeedbackContent
from schemas.manifests import SnapshotManifest
from schemas.sealed import Sealed, unseal
from trainer.data import Demonstration, LoggedAnswer, PreferencePair, ThumbedAnswer, TokenPair
from trainer.snapshots.snapshot import SCHEMAS

log = logging.getLogger(__name__)

Encode = Callable[[str], Sequence[int]]
"""Text of an answer -> its token ids by the base's tokenizer, the end-of-turn token included."""
_Row = dict[str, Any]


@dataclass(frozen=True)
class Split:
    """One side of a snapshot."""

    answers: tuple[LoggedAnswer, ...]
    pairs: tuple[PreferencePair, ...]
    thumbs: tuple[ThumbedAnswer, ...]
    demonstrations: tuple[Demonstration, ...]


@dataclass(frozen=True)
class Dataset:
    """A snapshot, open."""

    train: Split
    heldout: Split
    """Labels of held-out persons, and the newest; answers of held-out persons."""
    dropped: Mapping[str, int]
    """Rows that could not be used, by why: key_destroyed, seal_broken, unreadable, no_prompt, other_prompt,
    same_answer, token_mismatch."""


class _Drop(Exception):
    """This row cannot be used. Never leaves the module."""


def open_dataset(folder: Path, manifest: SnapshotManifest, keys: KeyStore, encode: Encode) -> Dataset:
    """The learner's data out of a snapshot's files in `folder`.

    Raises:
        IntegrityError: a file is missing or is not the one the manifest names.
    """
    tables = {name: _read(folder, name, manifest) for name in SCHEMAS}
    return _Opener(tables, keys, encode).dataset()


def living_keys(folder: Path, manifest: SnapshotManifest, keys: KeyStore) -> int:
    """How many of the keys that a snapshot's content is sealed under still exist.

    Raises:
        IntegrityError: a file is missing or is not the one the manifest names.
    """
    sealed = ("completions.parquet", "corrections.parquet")
    key_ids = {row["key_id"] for name in sealed for row in _read(folder, name, manifest)}
    return sum(keys.lookup(key_id) is not None for key_id in key_ids)


class _Opener:
    def __init__(self, tables: Mapping[str, list[_Row]], keys: KeyStore, encode: Encode) -> None:
        self._tables = tables
        self._keys = keys
        self._encode = encode
        self._known_keys: dict[str, SubjectKey | None] = {}
        self._sealed = {row["completion_id"]: row for row in tables["completions.parquet"]}
        self._content: dict[str, CompletionContent | str] = {}
        self._dropped: Counter[str] = Counter()

    def dataset(self) -> Dataset:
        train, heldout = self._split(False), self._split(True)
        if self._dropped:
            log.info("snapshot rows not used: %s", dict(self._dropped))
        return Dataset(train, heldout, dict(sorted(self._dropped.items())))

    def _split(self, heldout: bool) -> Split:
        def made(name: str, make: Callable[[_Row], Any]) -> list[Any]:
            found = []
            for row in self._tables[name]:
                if bool(row["heldout"]) is heldout:
                    try:
                        found.append(make(row))
                    except _Drop as drop:
                        self._dropped[str(drop)] += 1
            return found

        corrections: list[tuple[PreferencePair, Demonstration]] = made("corrections.parquet", self._correction)
        return Split(
            answers=tuple(made("answers.parquet", self._answer)),
            pairs=(*made("pairs.parquet", self._pair), *(pair for pair, _ in corrections)),
            thumbs=tuple(made("thumbs.parquet", self._thumb)),
            demonstrations=tuple(demonstration for _, demonstration in corrections),
        )

    def _answer(self, row: _Row) -> LoggedAnswer:
        prompt, answer = self._tokens(row["completion_id"], row["choice"])
        logprobs = struct.unpack(f"<{len(row['logprobs']) // 4}f", row["logprobs"])
        if len(logprobs) != len(answer):
            raise _Drop("token_mismatch")
        return LoggedAnswer(
            sample_id=f"{row['completion_id']}/{row['choice']}",
            completion_id=row["completion_id"],
            choice=row["choice"],
            prompt_ids=prompt,
            answer_ids=answer,
            behaviour_logprobs=logprobs,
            temperature=row["temperature"],
            top_p=row["top_p"],
            top_k=row["top_k"],
            behaviour_version=row["version"],
            reward=None,
            group=row["group"],
        )

    def _pair(self, row: _Row) -> PreferencePair:
        prompt, chosen = self._tokens(row["chosen_completion"], row["chosen_choice"])
        other, rejected = self._tokens(row["rejected_completion"], row["rejected_choice"])
        if prompt != other:
            raise _Drop("other_prompt")
        return _preference(row, (prompt, chosen), rejected, tie=row["tie"], weight=row["weight"])

    def _thumb(self, row: _Row) -> ThumbedAnswer:
        prompt, answer = self._tokens(row["completion_id"], row["choice"])
        return ThumbedAnswer(
            prompt_ids=prompt,
            answer_ids=answer,
            liked=row["liked"],
            cohort=row["source"],
            weight=row["weight"],
            group=row["group"],
        )

    def _correction(self, row: _Row) -> tuple[PreferencePair, Demonstration]:
        prompt, original = self._tokens(row["completion_id"], row["choice"])
        try:
            text = FeedbackContent.model_validate_json(self._open(row)).correction
        except ValidationError as error:
            raise _Drop("unreadable") from error
        edited = tuple(self._encode(text)) if text else ()
        if not edited:
            raise _Drop("unreadable")
        pair = _preference(row, (prompt, edited), original, tie=False, weight=1.0)
        return pair, Demonstration(prompt_ids=prompt, answer_ids=edited)

    def _tokens(self, completion_id: str, choice: int) -> TokenPair:
        if completion_id not in self._content:
            try:
                opened = self._open(self._sealed[completion_id])
                self._content[completion_id] = CompletionContent.model_validate_json(opened)
            except _Drop as drop:
                self._content[completion_id] = str(drop)
            except ValidationError:
                self._content[completion_id] = "unreadable"
        content = self._content[completion_id]
        if isinstance(content, str):
            raise _Drop(content)
        answer = next((item.token_ids for item in content.choices if item.index == choice), ())
        if not content.prompt_token_ids:
            raise _Drop("no_prompt")
        if not answer:
            raise _Drop("token_mismatch")
        return content.prompt_token_ids, answer

    def _open(self, row: _Row) -> bytes:
        sealed = Sealed(subject=row["subject"], key_id=row["key_id"], data=row["data"])
        if sealed.key_id not in self._known_keys:
            self._known_keys[sealed.key_id] = self._keys.lookup(sealed.key_id)
        key = self._known_keys[sealed.key_id]
        if key is None:
            raise _Drop("key_destroyed")
        try:
            return unseal(sealed, key=key.secret, event_id=row["event_id"])
        except SealBroken as error:
            log.warning("%s", error)
            raise _Drop("seal_broken") from error


def _preference(row: _Row, chosen: TokenPair, rejected: tuple[int, ...], *, tie: bool, weight: float) -> PreferencePair:
    prompt, better = chosen
    if better == rejected:
        raise _Drop("same_answer")
    return PreferencePair(
        prompt_ids=prompt,
        chosen_ids=better,
        rejected_ids=rejected,
        tie=tie,
        weight=weight,
        group=row["group"],
        source=row["kind"],
        set_id=row["feedback_id"],
    )


def _read(folder: Path, name: str, manifest: SnapshotManifest) -> list[_Row]:
    try:
        digest = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    except FileNotFoundError as error:
        raise IntegrityError(f"the snapshot in {folder} has no {name}") from error
    if name not in manifest.files or manifest.files[name].sha256 != digest:
        raise IntegrityError(f"{folder / name} is not the file of snapshot {manifest.digest[:12]}")
    rows: list[_Row] = pq.read_table(folder / name, schema=SCHEMAS[name]).to_pylist()
    return rows
