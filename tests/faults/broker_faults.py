"""Scenes: what happens to the broker while a server has its load. Chats go on, feedback is kept, nothing is lost.

Every scene runs a real broker and a server without a model on it, breaks something, waits until chats and feedback have
gone on meanwhile, mends it, waits until everything has reached the log, and counts.
"""

from __future__ import annotations

import os
import random
import string
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from deploy.brokers.broker import Broker, start_broker
from deploy.brokers.cluster import start_cluster
from deploy.brokers.node import Access, Node
from deploy.brokers.ports import free_ports
from tests.faults.audit import take_stock
from tests.faults.load import Load
from tests.faults.outcome import Outcome, judged
from tests.faults.serving import Server, server_nursery
from tests.faults.victims import until
from tests.faults.wire import Wire

SMALL_SPOOL = 300_000
"""Bytes: full after some hundred answers."""
PATIENCE_S = 240.0
DISK = "1m"

Damage = Callable[[Server, Load], Sequence[str]]
"""Breaks and mends; returns what is to be told of it."""


def under_load(
    work: Path,
    kafka: str,
    damage: Damage,
    *,
    settings: Mapping[str, str] | None = None,
    all_answers: bool = True,
    full: bool = False,
) -> Outcome:
    """A server on `kafka` under load, and what came of a damage.

    Args:
        all_answers: whether every answer must be on the log in the end; not where the server is killed.
        full: whether the spool is meant to be full: then feedback may be refused, and answers dropped.
    """
    with (
        server_nursery() as nursery,
        Server(work / "home", log=f"kafka://{kafka}", settings=settings or {}, parent=nursery) as server,
        Load(server) as load,
    ):
        with load.server_down():
            server.start()
            server.until_ready()
        load.until_more(chats=10, words=10, patience_s=PATIENCE_S)
        notes = list(damage(server, load))
        load.until_more(chats=15, words=15, patience_s=PATIENCE_S)
        account = load.settle(PATIENCE_S)
        until(lambda: not spooled(server), "everything in the spool reaches the log", PATIENCE_S)
        with load.server_down():
            server.stop()
        audit = take_stock(server.log_url, account, work, registry=server.registry_url)
        return judged(
            account,
            audit,
            notes=notes,
            peak_mb=server.peak_mb,
            all_answers=all_answers and not full,
            may_be_unready=full,
        )


def broker_killed(work: Path, *, away_s: float, chats: int = 40, words: int = 30) -> Outcome:
    """`kill -9` of the one broker, and a restart."""
    with start_broker(work / "broker") as broker:

        def damage(server: Server, load: Load) -> list[str]:
            broker.kill()
            with lasting(away_s):
                load.until_more(chats=chats, words=words, patience_s=PATIENCE_S)
            broker.start()
            return [f"away for at least {away_s:.0f} s"]

        return under_load(work, broker.bootstrap, damage)


def broker_paused(work: Path, *, away_s: float) -> Outcome:
    """SIGSTOP: connections stay open and nobody answers."""
    with start_broker(work / "broker") as broker:

        def damage(server: Server, load: Load) -> list[str]:
            broker.pause()
            try:
                with lasting(away_s):
                    load.until_more(chats=40, words=30, patience_s=PATIENCE_S)
            finally:
                broker.resume()
            return [f"stopped for {away_s:.0f} s"]

        return under_load(work, broker.bootstrap, damage)


def broker_away_at_start(work: Path, *, away_s: float) -> Outcome:
    """The server starts, chats and takes feedback before there is a broker."""
    port, controller = free_ports(2)
    with Broker(Node(1, port, controller, work / "broker")) as broker:

        def damage(server: Server, load: Load) -> list[str]:
            time.sleep(away_s)
            load.until_more(chats=20, words=20, patience_s=PATIENCE_S)
            broker.start()
            return [f"the broker came at least {away_s:.0f} s after the server"]

        # A replica that never read who withdrew consent keeps nothing of named people unless it is told to.
        return under_load(work, broker.bootstrap, damage, settings={"ATTUNE_CHAT__UNREAD_CONSENTS": "train"})


def one_of_three_killed(work: Path, *, away_s: float) -> Outcome:
    """One of three brokers is killed and comes back: the other two are enough for acks=all."""
    with start_cluster(work / "brokers") as cluster:

        def damage(server: Server, load: Load) -> list[str]:
            cluster.brokers[1].kill()
            with lasting(away_s):
                load.until_more(chats=40, words=30, patience_s=PATIENCE_S)
            cluster.brokers[1].start()
            return [f"away for at least {away_s:.0f} s"]

        return under_load(work, cluster.bootstrap, damage)


def server_killed_with_full_spool(work: Path) -> Outcome:
    """The broker is away until the spool is full; then `kill -9` of the server, and everything comes back."""
    with start_broker(work / "broker") as broker:

        def damage(server: Server, load: Load) -> list[str]:
            broker.kill()
            until(lambda: load.account.refused, "the spool is full", PATIENCE_S)
            full = spooled(server)
            load.until_more(chats=20, patience_s=PATIENCE_S)
            with load.server_down():
                server.kill()
                server.start()
                broker.start()
                server.until_ready()
            return [f"{full:,} bytes in the spool when the server was killed", *_refusals(load)]

        return under_load(work, broker.bootstrap, damage, settings=_cap(SMALL_SPOOL), all_answers=False, full=True)


def disk_full(work: Path, *, chats: int = 40) -> Outcome:
    """The disk under the spool is full: feedback is refused in clear words, and chat goes on."""
    spool = work / "home" / "server-data" / "spool"
    with start_broker(work / "broker") as broker, small_disk(spool) as (kind, settings):

        def damage(server: Server, load: Load) -> list[str]:
            broker.kill()
            until(lambda: load.account.refused, "the spool is full", PATIENCE_S)
            load.until_more(chats=chats, patience_s=PATIENCE_S)
            broker.start()
            return [kind, *_refusals(load)]

        return under_load(work, broker.bootstrap, damage, settings=settings, full=True)


def way_cut(work: Path, *, away_s: float) -> Outcome:
    """The way between server and broker is cut twice: connections end; and then, worse, they stay and carry nothing."""
    direct, behind, cable, controller = free_ports(4)
    access = Access(
        ports={"BEHIND": behind},
        properties={
            "advertised.listeners": f"PLAINTEXT://127.0.0.1:{direct},BEHIND://127.0.0.1:{cable}",
            "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,BEHIND:PLAINTEXT",
        },
    )
    with Broker(Node(1, direct, controller, work / "broker"), access=access) as broker, Wire(cable, behind) as wire:
        broker.start()

        def damage(server: Server, load: Load) -> list[str]:
            for cut in (wire.sever, wire.stall):
                cut()
                with lasting(away_s):
                    load.until_more(chats=30, words=20, patience_s=PATIENCE_S)
                wire.mend()
                load.until_more(chats=10, words=10, patience_s=PATIENCE_S)
            return [f"cut, then stalled, for at least {away_s:.0f} s each"]

        return under_load(work, f"127.0.0.1:{cable}", damage)


def oversize_record(work: Path, *, size: int = 900_000) -> Outcome:
    """A chat whose record is larger than a broker takes, amid the stream: it holds up and takes down nothing."""
    with start_broker(work / "broker") as broker:

        def damage(server: Server, load: Load) -> list[str]:
            wrong = load.chat_once("".join(random.Random(0).choices(string.ascii_letters, k=size)))
            assert wrong is None, f"the long chat failed: {wrong}"
            load.until_more(chats=40, words=40, patience_s=PATIENCE_S)
            return [f"one question of {size:,} characters"]

        return under_load(work, broker.bootstrap, damage)


def spooled(server: Server) -> int:
    """Bytes that wait for the log on disk or in memory; -1 where the server does not tell."""
    names = ("attune_spool_bytes ", "attune_recorder_queue_bytes ")
    found = [line.split()[1] for line in server.metrics().splitlines() if line.startswith(names)]
    return int(sum(map(float, found))) if len(found) == len(names) else -1


@contextmanager
def lasting(seconds: float) -> Iterator[None]:
    """A block that takes at least so long."""
    ends = time.monotonic() + seconds
    yield
    time.sleep(max(0.0, ends - time.monotonic()))


@contextmanager
def small_disk(folder: Path) -> Iterator[tuple[str, Mapping[str, str]]]:
    """A disk of 1 MB mounted at `folder` where this process may mount one, else the spool's own cap; what it is, and
    the server's settings.
    """
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode:
        yield f"the spool's cap of {SMALL_SPOOL:,} bytes (no right to mount a small disk)", _cap(SMALL_SPOOL)
        return
    try:
        yield "a disk of 1 MB", {}
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def _cap(size: int) -> Mapping[str, str]:
    return {"ATTUNE_SPOOL__MAX_BYTES": str(size)}


def _refusals(load: Load) -> list[str]:
    return [f"refused: {message}" for message, _ in load.account.refused.most_common(2)]
