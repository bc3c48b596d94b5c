"""Votes become events: first all of them are looked at, then they are written, each sealed under its person's key.

An event's id follows from who voted and what was said, so that a vote counts once however often it is imported. Ids and
targets are keyed hashes: nobody can test a guess of what an erased person said against them. Knows events, the log and
the key store; knows no file format and no terminal.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from deploy.votes.reading import Found
from deploy.votes.vote import Vote
from exchange.keys.port import KeyStore
from exchange.log.port import EventLog, TopicPartition
from schemas.base import now_ms
from schemas.completion import Consent, ConsentLevel
from schemas.errors import InvalidInput, Unavailable
from schemas.imported import FeedbackImported, ImportedContent
from schemas.sealed import Sealed, seal
from schemas.topics import FEEDBACK
from schemas.wire import encode_event, header
from server import pseudonyms

BATCH = 200
"""Events that are appended at once."""
SHOWN_FAULTS = 20
MAX_UNREAD_NAMES = 50
ACTOR = "operator"
SOURCE = "attune/import"
_PENDING = Sealed(subject="-", key_id="-", data="")
"""Stands for what is sealed only when it is written."""


@dataclass(frozen=True)
class Destination:
    """Where votes go, and in whose name."""

    policy: str
    tenant: str
    consent: ConsentLevel
    pseudonym_key: bytes = field(repr=False)

    def event(self, vote: Vote, at_ms: int) -> FeedbackImported:
        """The event of a vote, its content still to be sealed. `at_ms` is taken where the vote has no time.

        Raises:
            InvalidInput: the vote lies in the future.
        """
        if vote.at is not None and vote.at > at_ms:
            raise InvalidInput("at lies in the future", field="at")
        answers = vote.answers if vote.liked is not None else tuple(sorted(vote.answers))
        target = self._id("vote", _text_of(vote, answers))
        user = pseudonyms.end_user(self.pseudonym_key, self.tenant, vote.user) if vote.user else None
        if vote.session:
            conversation = pseudonyms.conversation(self.pseudonym_key, self.tenant, vote.session)
        else:
            conversation = f"conv_{target.removeprefix('vote_')}"
        said = json.dumps([user or conversation, vote.liked, _text_of(vote, vote.answers)])
        return FeedbackImported(
            id=self._id("imp", said),
            at=at_ms if vote.at is None else vote.at,
            policy=self.policy,
            tenant=self.tenant,
            conversation=conversation,
            end_user=user,
            kind="preference" if vote.liked is None else "thumbs",
            liked=vote.liked,
            target=target,
            consent=Consent(level=self.consent, source="import"),
            source=vote.source,
            actor=ACTOR,
            language=vote.language,
            domain=vote.domain,
            content=_PENDING,
        )

    def _id(self, prefix: str, said: str) -> str:
        return pseudonyms.derived_id(self.pseudonym_key, prefix, self.tenant, self.policy, said)


def _text_of(vote: Vote, answers: tuple[str, ...]) -> str:
    return json.dumps([[[message.role, message.content] for message in vote.messages], answers])


@dataclass
class Survey:
    """What some files hold, and what would be imported of it."""

    fresh: Counter[str] = field(default_factory=Counter)
    """Votes to import, by kind and verdict."""
    left_out: Counter[str] = field(default_factory=Counter)
    """Items without a vote, by why, in one word. `repeated` and `imported_before` are votes that are there already."""
    faults: list[tuple[str, str]] = field(default_factory=list)
    """Place and fault of the first items that were not understood."""
    bad: int = 0
    """How many were not understood."""
    unread: Counter[str] = field(default_factory=Counter)
    """Fields that nobody read, by name."""
    people: set[str] = field(default_factory=set)
    """Who voted, under pseudonyms."""
    undated: int = 0
    """Votes that get the time of the import, as they have none of their own."""


def survey(found: Iterable[Found], destination: Destination, known: set[str]) -> Survey:
    """Look at everything without writing anything. `known`: ids of votes that are on the log."""
    result, now, seen = Survey(), now_ms(), set[str]()
    for one in found:
        for name in one.unread:
            if name in result.unread or len(result.unread) < MAX_UNREAD_NAMES:
                result.unread[name] += 1
        event = _event(one, destination, now)
        if isinstance(event, FeedbackImported) and one.vote is not None:
            reason = "imported_before" if event.id in known else "repeated" if event.id in seen else None
            seen.add(event.id)
            if reason is None:
                result.fresh[_verdict(event)] += 1
                result.people.add(event.speaker())
                result.undated += one.vote.at is None
            else:
                result.left_out[reason] += 1
        elif one.left_out is not None:
            result.left_out[one.left_out] += 1
        else:
            result.bad += 1
            if len(result.faults) < SHOWN_FAULTS:
                result.faults.append((one.place, str(event or one.bad)))
    return result


def _event(one: Found, destination: Destination, now: int) -> FeedbackImported | str | None:
    """The event of what was found, or what is wrong with it, or None where there is no vote."""
    if one.vote is None:
        return None
    try:
        return destination.event(one.vote, now)
    except InvalidInput as error:
        return f"{error.field}: {error.message}"


def _verdict(event: FeedbackImported) -> str:
    return "preferences" if event.liked is None else "thumbs up" if event.liked else "thumbs down"


def write(
    found: Iterable[Found],
    destination: Destination,
    log: EventLog,
    keys: KeyStore,
    known: set[str],
    wrote: Callable[[int], None] = lambda _: None,
) -> int:
    """Write the votes among `found` that are not `known`; what is no vote is passed over. Returns how many.

    Raises:
        Unavailable: log or key store cannot be reached. What was written stays, and counts once if it comes again.
    """
    done = 0
    for batch in _batches(_fresh(found, destination, set(known))):
        try:
            log.append([encode_event(_sealed(vote, event, keys), source=SOURCE) for vote, event in batch])
        except Unavailable as error:
            raise Unavailable(
                f"{error.message}; {done} votes were written before that",
                remedy="Run the same import again: those count once.",
            ) from error
        done += len(batch)
        wrote(done)
    return done


def _fresh(found: Iterable[Found], destination: Destination, seen: set[str]) -> Iterator[tuple[Vote, FeedbackImported]]:
    now = now_ms()
    for one in found:
        event = _event(one, destination, now)
        if isinstance(event, FeedbackImported) and one.vote is not None and event.id not in seen:
            seen.add(event.id)
            yield one.vote, event


def _batches(
    votes: Iterator[tuple[Vote, FeedbackImported]],
) -> Iterator[list[tuple[Vote, FeedbackImported]]]:
    while batch := list(itertools.islice(votes, BATCH)):
        yield batch


def _sealed(vote: Vote, event: FeedbackImported, keys: KeyStore) -> FeedbackImported:
    content = ImportedContent(messages=vote.messages, answers=vote.answers).model_dump_json().encode()
    key = keys.key_for(event.speaker())
    sealed = seal(content, key=key.secret, key_id=key.key_id, subject=event.speaker(), event_id=event.id)
    return event.model_copy(update={"content": sealed})


def imported_ids(log: EventLog, policy: str, advance: Callable[[int, int], None] = lambda *_: None) -> set[str]:
    """Ids of the votes of a policy that are on the log already, read from headers alone.

    Args:
        advance: called with records read and records there are.

    Raises:
        Unavailable: the log cannot be reached.
    """
    places = [TopicPartition(FEEDBACK.name, number) for number in log.partitions(FEEDBACK.name)]
    ends = {place: log.end_offset(place) for place in places}
    total, read, ids = sum(ends.values()), 0, set[str]()
    reader = log.reader(dict.fromkeys(places, 0))
    try:
        while any(reader.positions()[place] < end for place, end in ends.items()):
            records = reader.poll(max_records=1000, timeout_s=1.0)
            if not records:
                break  # offsets may have gaps at the end
            for record in records:
                mine = header(record.headers, "ce_subject") == policy
                if mine and header(record.headers, "ce_type") == FeedbackImported.wire_type():
                    ids.add(header(record.headers, "ce_id") or "")
            read += len(records)
            advance(read, total)
    finally:
        reader.close()
    return ids
