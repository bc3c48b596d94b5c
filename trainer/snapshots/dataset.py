"""Opens a snapshot: unseals its content with the key store and makes the learner's plain token data of it.

What cannot be opened because its person was erased is dropped and counted. Token ids stay as the engine logged them;
only what no engine sampled is tokenised here: a corrected text, and imported votes.
"""

from __future__ import annotations

import logging
import struct
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from exchange.keys.port import KeyStore
from schemas.errors import InvalidInput
from schemas.feedback import FeedbackContent
from schemas.imported import ChatMessage, ImportedContent
from schemas.manifests import SnapshotManifest
from trainer.data import (
    IMPORTED,
    AspectValue,
    Demonstration,
    LoggedAnswer,
    PreferencePair,
    RatedAnswer,
    ThumbedAnswer,
    TokenPair,
)
from trainer.snapshots.contents import Contents, Row, Unusable, read_tables

log = logging.getLogger(__name__)

Encode = Callable[[Sequence[int], str], Sequence[int]]
"""Prompt's token ids and the text of an answer -> the answer's token ids by the base's tokenizer, the end-of-turn token
included. Raises InvalidInput where both together are longer than the model, or the settings, allow."""
EncodeChat = Callable[[Sequence[ChatMessage], str], TokenPair]
"""A conversation and the text of its answer -> both as token ids, as the base's chat template makes them. Raises
InvalidInput where the template cannot render the conversation, or the model cannot take it for its length."""


@dataclass(frozen=True)
class Split:
    """One side of a snapshot."""

    answers: tuple[LoggedAnswer, ...]
    pairs: tuple[PreferencePair, ...]
    thumbs: tuple[ThumbedAnswer, ...]
    demonstrations: tuple[Demonstration, ...]
    ratings: tuple[RatedAnswer, ...] = ()
    aspects: tuple[AspectValue, ...] = ()


@dataclass(frozen=True)
class Dataset:
    """A snapshot, open."""

    train: Split
    heldout: Split
    """Labels of held-out persons, and the newest; answers of held-out persons. No imported votes."""
    dropped: Mapping[str, int]
    """Rows that could not be used, by why: key_destroyed, seal_broken, unreadable, no_prompt, other_prompt,
    same_answer, token_mismatch, too_long (a correction), not_rendered (an imported vote)."""
    slices: Mapping[tuple[int, ...], tuple[str, ...]] = field(default_factory=dict)
    """Prompt -> all groups that asked it (language, domain, tenant): people of several may ask the very same."""


def open_dataset(
    folder: Path, manifest: SnapshotManifest, keys: KeyStore, encode: Encode, encode_chat: EncodeChat | None = None
) -> Dataset:
    """The learner's data out of a snapshot's files in `folder`.

    Args:
        encode_chat: for imported votes; without it they are dropped as not_rendered.

    Raises:
        IntegrityError: a file is missing or is not the one the manifest names.
    """
    return _Opener(read_tables(folder, manifest), keys, encode, encode_chat).dataset()


def living_keys(folder: Path, manifest: SnapshotManifest, keys: KeyStore) -> int:
    """How many of the keys that a snapshot's content is sealed under still exist.

    Raises:
        IntegrityError: a file is missing or is not the one the manifest names.
    """
    tables = read_tables(folder, manifest).values()
    key_ids = {row["key_id"] for rows in tables for row in rows if "key_id" in row}
    return sum(keys.lookup(key_id) is not None for key_id in key_ids)


class _Opener:
    def __init__(
        self, tables: Mapping[str, list[Row]], keys: KeyStore, encode: Encode, encode_chat: EncodeChat | None
    ) -> None:
        self._tables = tables
        self._contents = Contents(tables, keys)
        self._encode = encode
        self._encode_chat = encode_chat
        self._dropped: Counter[str] = Counter()
        self._slices: dict[tuple[int, ...], dict[str, None]] = {}
        """Prompt -> its slices, in the order found."""

    def dataset(self) -> Dataset:
        train, heldout = self._split(False), self._split(True)
        if self._dropped:
            log.info("snapshot rows not used: %s", dict(self._dropped))
        slices = {prompt: tuple(names) for prompt, names in self._slices.items()}
        return Dataset(train, heldout, dict(sorted(self._dropped.items())), slices)

    def _split(self, heldout: bool) -> Split:
        def made(name: str, make: Callable[[Row], Any]) -> list[Any]:
            found = []
            for row in self._tables[name]:
                if bool(row["heldout"]) is heldout:
                    try:
                        found.append(make(row))
                    except Unusable as unusable:
                        self._dropped[str(unusable)] += 1
            return found

        corrections: list[tuple[PreferencePair, Demonstration]] = made("corrections.parquet", self._correction)
        imported: list[PreferencePair | ThumbedAnswer] = made("imported.parquet", self._imported)
        verdicts: list[ThumbedAnswer | RatedAnswer] = made("thumbs.parquet", self._verdict)
        return Split(
            answers=tuple(made("answers.parquet", self._answer)),
            pairs=(
                *made("pairs.parquet", self._pair),
                *(pair for pair, _ in corrections),
                *(vote for vote in imported if isinstance(vote, PreferencePair)),
            ),
            thumbs=(
                *(verdict for verdict in verdicts if isinstance(verdict, ThumbedAnswer)),
                *(vote for vote in imported if isinstance(vote, ThumbedAnswer)),
            ),
            ratings=tuple(verdict for verdict in verdicts if isinstance(verdict, RatedAnswer)),
            demonstrations=tuple(demonstration for _, demonstration in corrections),
            aspects=tuple(made("aspects.parquet", self._aspect)),
        )

    def _answer(self, row: Row) -> LoggedAnswer:
        prompt, answer = self._tokens(row["completion_id"], row["choice"])
        logprobs = struct.unpack(f"<{len(row['logprobs']) // 4}f", row["logprobs"])
        if len(logprobs) != len(answer):
            raise Unusable("token_mismatch")
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
            slices=self._contents.slices(row["completion_id"]),
        )

    def _pair(self, row: Row) -> PreferencePair:
        prompt, chosen = self._tokens(row["chosen_completion"], row["chosen_choice"])
        other, rejected = self._tokens(row["rejected_completion"], row["rejected_choice"])
        if prompt != other:
            raise Unusable("other_prompt")
        return _preference(row, (prompt, chosen), rejected, tie=row["tie"], weight=row["weight"])

    def _verdict(self, row: Row) -> ThumbedAnswer | RatedAnswer:
        prompt, answer = self._tokens(row["completion_id"], row["choice"])
        name = f"{row['completion_id']}/{row['choice']}"
        about = (row["source"], row["weight"], row["group"], name, row["heldout"], row["at"])
        if row["stars"] is not None:
            return RatedAnswer(prompt, answer, row["stars"], *about)
        return ThumbedAnswer(prompt, answer, row["liked"], *about)

    def _aspect(self, row: Row) -> AspectValue:
        answer = self._tokens(row["completion_id"], row["choice"])
        return AspectValue(answer, row["aspect"], row["value"], row["group"], row["heldout"])

    def _correction(self, row: Row) -> tuple[PreferencePair, Demonstration]:
        prompt, original = self._tokens(row["completion_id"], row["choice"])
        text = self._contents.opened(row, FeedbackContent).correction
        if not text:
            raise Unusable("unreadable")
        try:
            edited = tuple(self._encode(prompt, text))
        except InvalidInput as error:
            log.debug("a correction is left out: %s", error)
            raise Unusable("too_long") from error
        pair = _preference(row, (prompt, edited), original, tie=False, weight=1.0)
        return pair, Demonstration(prompt_ids=prompt, answer_ids=edited)

    def _imported(self, row: Row) -> PreferencePair | ThumbedAnswer:
        content = self._contents.opened(row, ImportedContent)
        if row["kind"] == "thumbs":
            prompt, answer = self._rendered(content.messages, content.answers[0])
            liked, group = row["liked"], row["group"]
            return ThumbedAnswer(
                prompt_ids=prompt, answer_ids=answer, liked=liked, cohort=IMPORTED, weight=1.0, group=group
            )
        if len(content.answers) != 2:
            raise Unusable("unreadable")
        chosen, (_, rejected) = (self._rendered(content.messages, answer) for answer in content.answers)
        return _preference({**row, "kind": IMPORTED, "at": 0}, chosen, rejected, tie=False, weight=1.0)

    def _rendered(self, messages: Sequence[ChatMessage], answer: str) -> TokenPair:
        if self._encode_chat is None:
            raise Unusable("not_rendered")
        try:
            prompt_ids, answer_ids = self._encode_chat(messages, answer)
        except InvalidInput as error:
            log.debug("an imported vote is left out: %s", error)
            raise Unusable("not_rendered") from error
        if not prompt_ids or not answer_ids:
            raise Unusable("not_rendered")
        return prompt_ids, answer_ids

    def _tokens(self, completion_id: str, choice: int) -> TokenPair:
        content = self._contents.completion(completion_id)
        answer = next((item.token_ids for item in content.choices if item.index == choice), ())
        if not content.prompt_token_ids:
            raise Unusable("no_prompt")
        if not answer:
            raise Unusable("token_mismatch")
        named = dict.fromkeys(self._contents.slices(completion_id))
        self._slices.setdefault(content.prompt_token_ids, {}).update(named)
        return content.prompt_token_ids, answer


def _preference(row: Row, chosen: TokenPair, rejected: tuple[int, ...], *, tie: bool, weight: float) -> PreferencePair:
    prompt, better = chosen
    if better == rejected:
        raise Unusable("same_answer")
    return PreferencePair(
        prompt_ids=prompt,
        chosen_ids=better,
        rejected_ids=rejected,
        tie=tie,
        weight=weight,
        group=row["group"],
        source=row["kind"],
        set_id=row["feedback_id"],
        speaker=row["source"],
        heldout=row["heldout"],
        at=row["at"],
    )
