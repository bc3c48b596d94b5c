"""Scenes: `kill -9` of the server at random moments under load, on the embedded log.

While it is killed again and again, versions are published, promoted and taken back, so that some kills come in the
middle of a swap. Whatever answered must be a whole version: its files in the registry and in the replica's cache are
held against the manifest's digests after every restart.
"""

from __future__ import annotations

import random
import time
from pathlib import Path

from exchange.open import open_log, open_registry
from exchange.registry.artifacts import is_intact
from tests.faults.audit import take_stock
from tests.faults.load import Load
from tests.faults.outcome import Outcome, judged
from tests.faults.serving import Server, server_nursery
from tests.unit.server.control.world import Operator, publish


def killed_server(work: Path, *, kills: int, seed: int = 0) -> Outcome:
    """Kill a server without a model `kills` times: most while it answers, some while it starts."""
    rng = random.Random(seed)
    with (
        server_nursery() as nursery,
        Server(work / "home", parent=nursery) as server,
        Load(server, seed=seed) as load,
    ):
        started_dead = 0
        with load.server_down():
            server.start()
            server.until_ready()
        for number in range(kills):
            next_version(server, work, number + 1)
            load.until_more(chats=3, words=3)
            time.sleep(rng.uniform(0.0, 0.8))
            with load.server_down():
                server.kill()
                server.start()
                while number % 4 == 3 and rng.random() < 0.75:  # some of them before they serve
                    time.sleep(rng.uniform(0.0, 0.5))
                    if server.unready() is None:
                        break
                    server.kill()
                    server.start()
                    started_dead += 1
                server.until_ready()
            check_whole(server)
        load.until_more(chats=5, words=5)
        account = load.settle()
        with load.server_down():
            server.stop()
        audit = take_stock(server.log_url, account, work)
        notes = [
            f"{server.lives - 1} kills, {started_dead} of them while it started",
            f"versions that answered: {len(account.versions)}, all of them whole",
        ]
        return judged(account, audit, notes=notes, peak_mb=server.peak_mb)


def check_whole(server: Server) -> None:
    """AssertionError where a version that is served has other files than its manifest says."""
    registry = open_registry(server.registry_url)
    for name in server.policy()["serving"]:
        version = int(name.rpartition("v")[2])
        if version:
            manifest = registry.adapter("support", version)
            for folder in ("registry/artifacts/adapters", "server-data/adapters"):
                assert is_intact(server.folder / folder / manifest.digest, manifest.files), f"{name} is there by half"


def next_version(server: Server, work: Path, version: int) -> None:
    """Publish the next version; make it canary, then promote it or take it back, by turns."""
    with open_log(server.log_url) as log:
        operator = Operator(log)
        manifest = publish(open_registry(server.registry_url), work / "made", version)
        operator.candidate(version, manifest.digest)
        operator.canary(version)
        if version % 3:
            operator.promote(version)
        else:
            operator.rollback(version)
