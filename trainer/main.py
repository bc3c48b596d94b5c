"""The trainer's composition root: from settings to a running loop, and a clean end. The one place that opens things."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from types import FrameType

import torch
from transformers.utils import logging as transformers_logging

from exchange.journal import PolicyJournal
from exchange.log.port import require_configured
from exchange.open import open_keys, open_log, open_registry
from exchange.privacy.erasures import read_erasures, replay_erasures
from exchange.privacy.retention import Sweeper
from trainer.gates.sample import answer_encoder, chat_encoder, load_tokenizer
from trainer.home import Home
from trainer.intake.clerk import ErasureClerk
from trainer.intake.feeder import Feeder
from trainer.intake.ingest import Ingest
from trainer.intake.ledger import Ledger
from trainer.intake.report import IntakeReport
from trainer.loop import Loop
from trainer.metrics import TrainerMetrics
from trainer.progress import Reporter, open_display
from trainer.quality.gold import gold_of, read_items
from trainer.quality.reviewer import Reviewer
from trainer.release.canary import CanaryWatch
from trainer.release.lease import TrainerLease
from trainer.release.publish import Publisher
from trainer.settings import TrainerSettings
from trainer.snapshots.corpus import Corpus
from trainer.state import StateDir
from trainer.suites.loading import load_suites
from trainer.turn import Turns


def run_trainer(settings: TrainerSettings, once: bool = False, stop: threading.Event | None = None) -> int:
    """Train until SIGTERM or SIGINT (or `stop`), or make one turn.

    Returns:
        The exit code: 0, or 3 where `once` found nothing to do.

    Raises:
        ConfigError: settings that cannot work (a folder in use, no such model, ...).
        Unavailable: log, registry or key store cannot be opened.
    """
    ended = stop or threading.Event()
    with ExitStack() as stack:
        stack.enter_context(_ending(ended))
        loop = _assemble(settings, ended, stack)
        return loop.once() if once else loop.forever()


def _assemble(settings: TrainerSettings, stop: threading.Event, stack: ExitStack) -> Loop:
    if settings.threads:
        torch.set_num_threads(settings.threads)
    transformers_logging.disable_progress_bar()
    load_suites(*settings.suites.files)  # a faulty file shows now, not in a turn
    state = stack.enter_context(StateDir(settings.state_dir))
    home = Home.of(settings)
    tokenizer = load_tokenizer(home.model)
    log = stack.enter_context(open_log(settings.log, kafka=settings.kafka, registry=settings.registry))
    require_configured(log)
    registry = open_registry(settings.registry)
    keys = stack.enter_context(closing(open_keys(settings.keys)))
    replay_erasures(read_erasures(log), keys)
    journal = stack.enter_context(closing(PolicyJournal(log, source="attune/trainer")))
    ledger = stack.enter_context(Ledger(state.path / "ledger.db", settings.policy))
    clerk = ErasureClerk(log, keys, settings.policy, state.holder())
    ingest = stack.enter_context(
        closing(
            Ingest(
                log,
                ledger,
                settings.policy,
                clerk,
                on_records_lost=settings.on_records_lost,
                on_log_replaced=settings.on_log_replaced,
            )
        )
    )
    metrics = TrainerMetrics()
    feeder = stack.enter_context(Feeder(ingest, report=IntakeReport(ingest, metrics)))
    stack.enter_context(metrics.served(settings.metrics_port))
    count = lambda name, number: metrics.expired.labels(retention=name).inc(number)  # noqa: E731 a callback of one line
    stack.enter_context(Sweeper(settings.retention_days, ledger.expire, count))
    reporter = Reporter(stack.enter_context(open_display()), metrics, stop)
    lease = TrainerLease(journal, settings.policy, state.holder(), settings.lease_s)
    publisher = Publisher(journal, registry, lease, settings.policy, settings.promotion.canary_share)
    longest = settings.feedback.max_imported_tokens
    encode = answer_encoder(home.model, tokenizer, longest)
    encode_chat = chat_encoder(home.model, tokenizer, longest)
    corpus = Corpus(ledger, keys, settings.feedback, home.base_fingerprint, encode, encode_chat)
    items = read_items(settings.raters.gold) if settings.raters.gold else ()
    gold = gold_of(items, encode_chat)
    reviewer = Reviewer(log, ledger, keys, settings.policy, state.holder(), settings.raters, gold)
    turns = Turns(settings, home, journal, registry, publisher, state, corpus, reviewer, reporter, metrics)
    watch = CanaryWatch(journal, publisher, corpus, settings.promotion, turns.reserved)
    return Loop(lease, watch, turns, feeder, reporter, metrics, stop, settings.poll_s)


@contextmanager
def _ending(stop: threading.Event) -> Iterator[None]:
    """SIGTERM and SIGINT set `stop`; a second one ends the process the usual way. Only in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    signals = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.getsignal(number) for number in signals}

    def handle(number: int, _: FrameType | None) -> None:
        stop.set()
        signal.signal(number, before[signal.Signals(number)])

    for number in signals:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number in signals:
            signal.signal(number, before[number])
