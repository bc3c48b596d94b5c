"""From what the engine did to completion events on the log, beside the chats and never in their way.

The event loop hands a record over and goes on; a thread seals the personal part under the key of whom it belongs to
and gives the event to the appender, which brings it to the log or to the spool. Where a queue or the spool has no room,
or the key store cannot be reached, the record is dropped, and every drop is counted by its reason and logged. Logs name
completions, never content.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import re
import threading
from collections.abc import Sequence
from concurrent.futures import Future

from pydantic import ValidationError

from exchange.keys.port import KeyStore, SubjectKey
from exchange.log.appender import Appender
from exchange.log.line import NotKept, Stored
from schemas.base import parse_version_name
from schemas.completion import (
    ChoiceContent,
    CompletionChoice,
    CompletionContent,
    CompletionRecorded,
    ConsentLevel,
    SamplingParameters,
)
from schemas.errors import AttuneError, IntegrityError, Unavailable
from schemas.sealed import seal
from schemas.topics import COMPLETIONS
from schemas.wire import encode_event, validation_summary
from server.engine.record import EffectiveSampling, EngineRecord
from server.metrics import ServerMetrics

log = logging.getLogger(__name__)

MAX_WAITING = 4096
"""Records that may wait for the sealing thread; the appender bounds what waits for the log."""
MAX_BATCH = 256
"""Records that are sealed together."""


def completion_id_of(completion_id: str, part: int) -> str:
    """The id of one engine call of a request: the request's own for the first, `ID.N` for further prompts."""
    return completion_id if part == 0 else f"{completion_id}.{part}"


class Recorder:
    """The engine's sink. `base_fingerprint` and `chat_template_hash` are the engine's."""

    def __init__(
        self,
        *,
        keys: KeyStore,
        appender: Appender,
        metrics: ServerMetrics,
        base_fingerprint: str,
        chat_template_hash: str,
        source: str = "attune/server",
        max_waiting: int = MAX_WAITING,
    ) -> None:
        self._keys = keys
        self._appender = appender
        self._metrics = metrics
        self._base_fingerprint = base_fingerprint
        self._chat_template_hash = chat_template_hash
        self._source = source
        self._waiting: queue.Queue[EngineRecord | None] = queue.Queue(max_waiting)
        self._handed_on = 0
        self._thread = threading.Thread(target=self._run, name="attune-recorder", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the sealing thread runs; without it everything is dropped."""
        return self._thread.is_alive()

    def __call__(self, record: EngineRecord) -> None:
        """Take one record. Never blocks, never raises."""
        if record.context.consent.level is ConsentLevel.NONE:
            return
        if not self.alive:
            self._dropped(record, "stopping", "the recorder has stopped")
            return
        try:
            self._waiting.put_nowait(record)
        except queue.Full:
            self._dropped(record, "sealing_queue_full", "too many records wait for the key store")

    def flush(self, timeout_s: float) -> bool:
        """Wait until the appender has all that was recorded so far; False where that took longer."""
        with self._waiting.all_tasks_done:
            until = self._handed_on + self._waiting.unfinished_tasks
            return self._waiting.all_tasks_done.wait_for(lambda: self._handed_on >= until, timeout_s)

    def close(self, timeout_s: float = 10.0) -> bool:
        """Seal and submit what waits, and stop. False where that took longer than `timeout_s`."""
        if self.alive:
            try:
                self._waiting.put(None, timeout=timeout_s)
            except queue.Full:
                return False
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while batch := self._take():
            records = [record for record in batch if record is not None]
            self._record(records)
            with self._waiting.all_tasks_done:
                self._waiting.unfinished_tasks -= len(batch)
                self._handed_on += len(batch)
                self._waiting.all_tasks_done.notify_all()
            if len(records) < len(batch):  # told to stop
                return

    def _take(self) -> list[EngineRecord | None]:
        """What waits, at least one: answers come in bursts, and keys made together cost little more than one."""
        batch = [self._waiting.get()]
        with contextlib.suppress(queue.Empty):
            while len(batch) < MAX_BATCH:
                batch.append(self._waiting.get_nowait())
        return batch

    def _record(self, records: Sequence[EngineRecord]) -> None:
        try:
            keys = self._keys.keys_for([_subject(record) for record in records])
        except AttuneError as error:
            for record in records:
                self._dropped(record, "key_store", str(error))
            return
        for record, key in zip(records, keys, strict=True):
            try:
                event = self._event(record, key)
                future = self._appender.submit(encode_event(event, source=self._source))
            except ValidationError as error:
                self._dropped(record, "invalid", validation_summary(error))
            except NotKept as error:  # counted where it was refused
                self._dropped(record, None, str(error))
            except Unavailable as error:
                self._dropped(record, "key_store", str(error))
            except AttuneError as error:
                self._dropped(record, "invalid", str(error))
            except ValueError as error:  # what a request can hold and JSON cannot say: nested too deeply, say
                self._dropped(record, "invalid", f"it cannot be written ({type(error).__name__})")
            else:
                self._follow(record, future)

    def _follow(self, record: EngineRecord, future: Future[Stored]) -> None:
        def ended(done: Future[Stored]) -> None:
            error = done.exception()
            if error is None:
                outcome = "stored" if done.result().durable == "log" else "spooled"
                self._metrics.recorded(record.context.policy, outcome)
            else:
                log.error("completion %s was not recorded: %s", record.context.completion_id, error)
                self._metrics.recorded(record.context.policy, "failed")

        future.add_done_callback(ended)

    def _dropped(self, record: EngineRecord, reason: str | None, why: str) -> None:
        log.error("completion %s was not recorded: %s", record.context.completion_id, why)
        if reason is not None:
            self._metrics.dropped(COMPLETIONS.name, reason)
        self._metrics.recorded(record.context.policy, "dropped")

    def _event(self, record: EngineRecord, key: SubjectKey) -> CompletionRecorded:
        context = record.context
        if _version_used(record) != (context.policy, context.version):
            raise IntegrityError(f"routed to version {context.version} and answered by {record.adapter or 'the base'}")
        completion_id = completion_id_of(context.completion_id, _part(record))
        event_id = f"evt.{completion_id}"
        content = CompletionContent(
            messages=_messages(record),
            prompt_token_ids=record.prompt_token_ids,
            choices=tuple(
                ChoiceContent(index=choice.index, token_ids=choice.token_ids, text=choice.text)
                for choice in record.choices
            ),
        )
        sealed = seal(
            content.model_dump_json().encode(),
            key=key.secret,
            key_id=key.key_id,
            subject=_subject(record),
            event_id=event_id,
        )
        return CompletionRecorded(
            id=event_id,
            at=record.finished_ms,
            policy=context.policy,
            tenant=context.tenant,
            completion_id=completion_id,
            protocol=context.protocol,
            version=context.version,
            adapter_digest=context.adapter_digest,
            base_fingerprint=self._base_fingerprint,
            chat_template_hash=self._chat_template_hash,
            arm=context.arm,
            shown=context.shown,
            api_key_id=context.api_key_id,
            end_user=context.end_user,
            conversation=context.conversation,
            consent=context.consent,
            retention=context.retention,
            language=context.language,
            domain=context.domain,
            metadata=dict(context.metadata),
            sampling=sampling_parameters(record.sampling, forced_tool=context.forced_tool),
            logprobs_mode=record.logprobs_mode,
            started_at=record.started_ms,
            finished_at=record.finished_ms,
            first_token_ms=None if record.first_token_s is None else record.first_token_s * 1000,
            prompt_token_count=len(record.prompt_token_ids),
            choices=tuple(
                CompletionChoice(
                    index=choice.index,
                    token_count=len(choice.token_ids),
                    logprobs=choice.logprobs,
                    finish_reason=choice.finish_reason,
                    seen=choice.seen,
                )
                for choice in record.choices
            ),
            comparison_id=context.comparison_id,
            store=context.store,
            content=sealed,
        )


def sampling_parameters(sampling: EffectiveSampling, *, forced_tool: bool) -> SamplingParameters:
    """The engine's sampling parameters in the form of the contract, which keeps no personal values."""
    return SamplingParameters(
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        min_p=sampling.min_p,
        presence_penalty=sampling.presence_penalty,
        frequency_penalty=sampling.frequency_penalty,
        repetition_penalty=sampling.repetition_penalty,
        seed=sampling.seed,
        max_tokens=sampling.max_tokens,
        min_tokens=sampling.min_tokens,
        stop_strings=len(sampling.stop),
        logit_bias=sampling.logit_bias,
        bad_words=sampling.bad_words,
        allowed_token_ids=sampling.allowed_token_ids,
        structured_output=sampling.structured_output is not None,
        forced_tool=forced_tool,
        opaque=sampling.opaque,
    )


def _subject(record: EngineRecord) -> str:
    """Under whose key the record is sealed."""
    return record.context.end_user or record.context.conversation


def _version_used(record: EngineRecord) -> tuple[str, int]:
    if record.adapter is None:
        return record.context.policy, 0
    return parse_version_name(record.adapter)


def _part(record: EngineRecord) -> int:
    """Which engine call of its request this was. The engine's ids end in `-N` or `_N` after the id we gave."""
    _, _, rest = record.engine_request_id.rpartition(record.context.completion_id.removeprefix("cmpl_"))
    found = re.fullmatch(r"[-_](\d{1,6})", rest)
    return int(found[1]) if found else 0


def _messages(record: EngineRecord) -> tuple[dict[str, object], ...]:
    """What was asked in this engine call: of a request with several prompts, only its own."""
    context = record.context
    if context.protocol == "completions" and len(context.messages) > 1:
        return (context.messages[_part(record)],)
    return context.messages
