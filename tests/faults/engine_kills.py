"""Scene: `kill -9` of a server with a real vLLM under load, in the middle of answers and of a swap."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path

from exchange.fingerprint import base_fingerprint, chat_template_hash
from exchange.open import open_log, open_registry
from tests.adapters import CONFIG, WEIGHTS
from tests.faults.audit import take_stock
from tests.faults.load import Load
from tests.faults.outcome import Outcome, judged
from tests.faults.server_kills import check_whole
from tests.faults.serving import Server
from tests.tiny_models import make_tiny_adapter, make_tiny_model
from tests.unit.server.control.world import Operator, publish

RANK = 8
LEAVE_S = 20.0
"""How long the engine's own process may take to notice that its server is gone."""


def killed_engine(work: Path, *, kills: int, seed: int = 0) -> Outcome:
    """Kill a server on vLLM `kills` times; each time a new version is on its way into the engine."""
    rng = random.Random(seed)
    model = make_tiny_model(work / "base")
    left = 0
    with (
        Server(work / "home", model=model) as server,
        Load(server, seed=seed, stop=list("aeio"), pause_s=0.1) as load,
    ):
        with load.server_down():
            server.start()
            server.until_ready()
        for number in range(kills):
            load.until_more(chats=5, words=5)
            _next_version(server, model, work, number + 1)
            time.sleep(rng.uniform(0.0, 1.0))
            with load.server_down():
                left += server.kill(LEAVE_S)
                server.start()
                server.until_ready()
            check_whole(server)
            state = server.policy()
            assert f"support@v{number + 1}" in state["serving"], state["refused"]
        load.until_more(chats=10, words=10)
        account = load.settle()
        with load.server_down():
            server.stop()
        audit = take_stock(server.log_url, account, work)
        notes = [
            f"{kills} kills; versions that answered: {len(account.versions)}, all of them whole",
        ]
        assert left == 0, f"{left} engine processes outlived their servers by {LEAVE_S:.0f} s"
        return judged(account, audit, notes=notes, peak_mb=server.peak_mb)


def _next_version(server: Server, model: Path, work: Path, version: int) -> None:
    adapter = make_tiny_adapter(model, work / f"adapter-{version}", seed=version, rank=RANK)
    manifest = publish(
        open_registry(server.registry_url),
        work / "made",
        version,
        {name: (adapter / name).read_bytes() for name in (CONFIG, WEIGHTS)},
        base_fingerprint=base_fingerprint(model),
        chat_template_hash=chat_template_hash(model),
        rank=RANK,
        target_modules=tuple(json.loads((adapter / CONFIG).read_text())["target_modules"]),
        probes=(),
    )
    with open_log(server.log_url) as log:
        operator = Operator(log)
        operator.candidate(version, manifest.digest)
        operator.canary(version)
        operator.promote(version)
