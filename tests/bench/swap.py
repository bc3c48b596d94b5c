"""How long a swap takes: from the journal entry to the first token of the new version, under load.

A real server (`attune serve`, vLLM, a tiny random model, the SQLite log) answers eight clients without pause while an
operator promotes and takes back a version in turn. One process measures and loads, so it competes with the server for
the same cores. `ours` is the median of promotions, `theirs` of rollbacks, both in seconds; no rival does the same.
Prints one JSON object as its last line.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import httpx

from exchange.fingerprint import base_fingerprint, chat_template_hash
from exchange.open import open_log, open_registry
from exchange.registry.artifacts import describe_folder
from schemas.base import now_ms
from schemas.manifests import AdapterManifest, GateReport, files_digest
from tests.e2e.running import RunningServer, run_server
from tests.tiny_models import make_tiny_adapter, make_tiny_model
from tests.unit.server.control.world import Operator

CLIENTS = 8
WAIT_S = 120.0
QUESTION = [{"role": "user", "content": "Where is my order?"}]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=30, help="promotions, and as many rollbacks")
    times = parser.parse_args().times
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = make_tiny_model(folder / "base")
        with run_server(folder / "home", model, log="sqlite:///log.db") as server:
            publish(server, model, make_tiny_adapter(model, folder / "adapter", seed=1))
            print(json.dumps(measure(server, times)))


def publish(server: RunningServer, model: Path, adapter: Path) -> None:
    """Put a random adapter into the registry as support@v1, and announce it."""
    files = describe_folder(adapter)
    config = json.loads((adapter / "adapter_config.json").read_text())
    manifest = AdapterManifest(
        policy="support",
        version=1,
        parent=0,
        created_at=now_ms(),
        files=files,
        digest=files_digest(files),
        base_fingerprint=base_fingerprint(model),
        chat_template_hash=chat_template_hash(model),
        rank=config["r"],
        target_modules=tuple(sorted(config["target_modules"])),
        snapshot="0" * 64,
        reward_model="1" * 64,
        gates=GateReport(results=()),
        kl_nats_per_sequence=0.5,
        kl_budget_nats_per_sequence=6.0,
        recipe={},
        code_version="bench",
        seed=0,
    )
    open_registry(f"file://{server.folder}/registry").publish_adapter(adapter, manifest)
    with open_log(server.log_url) as log:
        Operator(log).candidate(1, manifest.digest)


def measure(server: RunningServer, times: int) -> dict[str, Any]:
    """Promote and roll back in turn under load."""
    stop, counts = threading.Event(), {"requests": 0, "failed": 0}
    lock = threading.Lock()

    def load() -> None:
        with httpx.Client(base_url=server.url, headers=server.app(), timeout=60) as client:
            while not stop.is_set():
                answer = client.post("/v1/chat/completions", json=body(16))
                with lock:
                    counts["requests"] += 1
                    counts["failed"] += answer.status_code != 200

    clients = [threading.Thread(target=load) for _ in range(CLIENTS)]
    for one in clients:
        one.start()
    promoted, rolled_back = [], []
    with httpx.Client(base_url=server.url, timeout=60) as client:
        for _ in range(times):
            promoted.append(change(client, server, "promote", {"version": "support@v1"}, "support@v1"))
            rolled_back.append(change(client, server, "rollback", {}, "support@v0"))
    stop.set()
    for one in clients:
        one.join()
    return {
        "name": "swap",
        "unit": "seconds from journal entry to first token",
        "ours": statistics.median(promoted),
        "theirs": statistics.median(rolled_back),
        "ratio": statistics.median(promoted) / statistics.median(rolled_back),
        "spread": {"promote_p95": p95(promoted), "rollback_p95": p95(rolled_back), "times": times},
        **counts,
    }


def change(client: httpx.Client, server: RunningServer, call: str, sent: dict[str, str], wanted: str) -> float:
    """Seconds from the call, which writes the journal entry, until the first token of a chat that the wanted version
    answers. Raises AssertionError where none does within WAIT_S.
    """
    began = time.monotonic()
    path = f"/v1/admin/policies/support/{call}"
    client.post(path, json=sent | {"reason": "bench"}, headers=server.admin()).raise_for_status()
    while time.monotonic() < began + WAIT_S:
        streamed = body(4) | {"stream": True}
        with client.stream("POST", "/v1/chat/completions", json=streamed, headers=server.app()) as answer:
            version = answer.headers["attune-version"]
            first = next(line for line in answer.iter_lines() if '"content":"' in line.replace(" ", ""))
            assert first
            if version == wanted:
                return time.monotonic() - began
    raise AssertionError(f"{wanted} did not answer:\n{(server.folder / 'server.log').read_text()[-3000:]}")


def body(tokens: int) -> dict[str, Any]:
    return {"model": "support", "messages": QUESTION, "max_tokens": tokens, "ignore_eos": True}


def p95(values: list[float]) -> float:
    return statistics.quantiles(values, n=20)[-1]


if __name__ == "__main__":
    main()
