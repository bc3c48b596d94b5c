"""What recording costs: Attune against plain vLLM, measured by vLLM's own benchmark client.

Three ways to serve the same model with the same LoRA adapter, in turn within one run: Attune, which records every
answer to its SQLite log; plain vLLM; and plain vLLM that is asked to return logprobs. The servers stand side by side
and those that are not measured are idle. Every round measures each way once, in an order that moves on, and its ratios
are of that round alone, so what else the machine does meanwhile falls on all three. Figures are the median over rounds
with a bootstrap interval of the median. Client and servers share the cores, so the throughput is that of all of them
together; `server_us` is the processor time of the server's processes for each output token, which other load disturbs
less. `ratio` is to vLLM returning logprobs, `ratio_plain` to plain vLLM. Prints one JSON object as its last line.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

from exchange.log.port import TopicPartition
from exchange.open import open_log
from schemas.topics import TOPICS
from server.engine.settings import flag_words
from tests.bench.swap import change, publish
from tests.e2e.running import START_S, VLLM_ARGS, RunningServer, free_port, run_server
from tests.tiny_models import make_tiny_adapter, make_tiny_model

PROMPT_TOKENS, ANSWER_TOKENS = 32, 64
REQUESTS = {1: 4, 64: 128}
"""Requests of one measurement by how many are in flight at once: a few seconds each on the reference machine."""
QUICK_REQUESTS = {1: 2, 64: 64}
VERSION = "support@v1"


@dataclass(frozen=True)
class Way:
    """One way to serve. `model` is the name to ask for; `pid` is the server's first process."""

    name: str
    url: str
    pid: int
    model: str
    key: str | None = None
    body: str = "{}"


@dataclass(frozen=True)
class Measured:
    """One run of the client: output tokens a second, and the server's processor time (microseconds) for each."""

    tokens_per_s: float
    server_us: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=12, help="pairs at each concurrency (default 12)")
    parser.add_argument("--quick", action="store_true", help="two short rounds, to see that it runs")
    parser.add_argument("--model", type=Path, help="folder of a causal LM (default: a random Llama, 2.6 M parameters)")
    parser.add_argument(
        "--vllm-args",
        type=json.loads,
        default=VLLM_ARGS,
        help=f"flags of all servers (default {json.dumps(VLLM_ARGS)})",
    )
    chosen = parser.parse_args()
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")  # Attune sets it where the model runs eagerly; so the rivals' too
    rounds, requests = (2, QUICK_REQUESTS) if chosen.quick else (chosen.rounds, REQUESTS)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = chosen.model or make_tiny_model(folder / "base", hidden_size=256, layers=4)
        adapter = make_tiny_adapter(model, folder / "adapter", seed=1)
        with (
            plain_vllm(folder, model, adapter, chosen.vllm_args) as plain,
            run_server(folder / "home", model, log="sqlite:///log.db", vllm_args=chosen.vllm_args) as attune,
        ):
            plain.wait_until_ready()
            publish(attune, model, adapter)
            with httpx.Client(base_url=attune.url, timeout=60) as client:
                change(client, attune, "promote", {"version": VERSION}, VERSION)
            before = recorded(attune)
            ways = (
                Way("attune", attune.url, attune.process.pid, "support", key=attune.home.app_key),
                Way("vllm", plain.url, plain.process.pid, VERSION),
                Way(
                    "vllm_logprobs", plain.url, plain.process.pid, VERSION, body='{"logprobs": true, "top_logprobs": 0}'
                ),
            )
            found = measure(ways, model, rounds, requests)
            asked = rounds * sum(requests.values())
            wait_until_recorded(attune, before + asked)
        print(json.dumps(report(found) | {"recorded": asked}))


@dataclass(frozen=True)
class PlainServer:
    """vLLM's own server, started and perhaps not ready yet."""

    url: str
    process: subprocess.Popen[bytes]
    output: Path

    def wait_until_ready(self) -> None:
        """Raises AssertionError with the end of its log where it does not become ready."""
        deadline = time.monotonic() + START_S
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"vLLM did not start:\n{self.output.read_text()[-3000:]}")
            time.sleep(0.5)

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health", timeout=5).status_code == 200
        except httpx.TransportError:
            return False


@contextlib.contextmanager
def plain_vllm(folder: Path, model: Path, adapter: Path, flags: dict[str, Any]) -> Iterator[PlainServer]:
    """Start vLLM's own server with the adapter as VERSION and the capacity Attune gives it, and end it at last."""
    port, output = free_port(), folder / "vllm.log"
    command = [
        *(sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model), "--port", str(port)),
        *("--host", "127.0.0.1", "--served-model-name", "support", "--disable-uvicorn-access-log"),
        *("--enable-lora", "--max-loras", "3", "--max-lora-rank", "16", "--lora-modules", f"{VERSION}={adapter}"),
        *(word for name, value in flags.items() for word in flag_words(name, value)),
    ]
    with output.open("wb") as written:
        process = subprocess.Popen(command, stdout=written, stderr=subprocess.STDOUT)
    try:
        yield PlainServer(f"http://127.0.0.1:{port}", process, output)
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def measure(
    ways: Sequence[Way], model: Path, rounds: int, requests: dict[int, int]
) -> dict[int, list[dict[str, Measured]]]:
    """By concurrency, the rounds; by name of the way, what was measured in a round."""
    found: dict[int, list[dict[str, Measured]]] = {concurrency: [] for concurrency in requests}
    for way in ways:
        for concurrency in requests:  # the first requests of a process are slower
            run_client(way, model, concurrency, 2 * concurrency, seed=0)
    for number in range(rounds):
        shift = number % len(ways)
        for concurrency, count in requests.items():
            measured = {
                way.name: run_client(way, model, concurrency, count, seed=1 + number * len(ways) + place)
                for place, way in enumerate((*ways[shift:], *ways[:shift]))
            }
            found[concurrency].append(measured)
            said = ", ".join(f"{way.name} {measured[way.name].tokens_per_s:.0f}" for way in ways)
            print(f"round {number + 1}, {concurrency} at once: {said} tokens/s", file=sys.stderr, flush=True)
    return found


def run_client(way: Way, model: Path, concurrency: int, count: int, seed: int) -> Measured:
    """One run of vLLM's client, streaming. Raises AssertionError where a request failed or an answer was short."""
    from vllm.benchmarks.serve import add_cli_args, main_async
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = FlexibleArgumentParser()
    add_cli_args(parser)
    words = [
        *("--backend", "openai-chat", "--endpoint", "/v1/chat/completions", "--base-url", way.url),
        *("--model", way.model, "--tokenizer", str(model), "--dataset-name", "random", "--num-prompts", str(count)),
        *("--random-input-len", str(PROMPT_TOKENS), "--random-output-len", str(ANSWER_TOKENS)),
        *("--max-concurrency", str(concurrency), "--temperature", "1", "--seed", str(seed), "--disable-tqdm"),
        *("--extra-body", way.body, "--ready-check-timeout-sec", "0"),
        *(() if way.key is None else ("--header", f"Authorization=Bearer {way.key}")),
    ]
    before = processor_seconds(way.pid)
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        result = asyncio.run(main_async(parser.parse_args(words)))
    spent = processor_seconds(way.pid) - before
    tokens = result["total_output_tokens"]
    if result["completed"] != count or tokens != count * ANSWER_TOKENS:
        raise AssertionError(f"{way.name}: {result['completed']} of {count} requests, {tokens} tokens")
    return Measured(result["output_throughput"], spent / tokens * 1e6)


def processor_seconds(pid: int) -> float:
    """Processor time of a process and all below it, so far."""
    first = psutil.Process(pid)
    times = [process.cpu_times() for process in (first, *first.children(recursive=True))]
    return sum(one.user + one.system for one in times)


def recorded(server: RunningServer) -> int:
    """Completions on the server's log."""
    with open_log(server.log_url) as log:
        topic = "attune.completions"
        return sum(log.end_offset(TopicPartition(topic, number)) for number in range(TOPICS[topic].partitions))


def wait_until_recorded(server: RunningServer, least: int) -> None:
    """Return when the log has `least` completions: a server that did not record would win for nothing."""
    deadline = time.monotonic() + 30
    while (have := recorded(server)) < least:
        if time.monotonic() > deadline:
            raise AssertionError(f"{have} completions recorded, {least} answered")
        time.sleep(0.1)


def report(found: dict[int, list[dict[str, Measured]]]) -> dict[str, Any]:
    """Medians and ratios by concurrency; the top level has those of the highest."""
    by_concurrency = {}
    for concurrency, rounds in found.items():
        ours, plain, logprobs = (
            [one[name].tokens_per_s for one in rounds] for name in ("attune", "vllm", "vllm_logprobs")
        )
        to_logprobs, to_plain = _ratios(ours, logprobs), _ratios(ours, plain)
        by_concurrency[str(concurrency)] = {
            "ours": round(statistics.median(ours), 1),
            "theirs": round(statistics.median(logprobs), 1),
            "plain": round(statistics.median(plain), 1),
            "ratio": round(statistics.median(to_logprobs), 3),
            "ratio_interval": median_interval(to_logprobs),
            "ratio_plain": round(statistics.median(to_plain), 3),
            "ratio_plain_interval": median_interval(to_plain),
            "server_us": {name: round(statistics.median(one[name].server_us for one in rounds)) for name in rounds[0]},
        }
    top = by_concurrency[str(max(found))]
    spread = {key: top[key] for key in ("ratio_interval", "ratio_plain_interval")}
    return {
        "name": "serve-overhead",
        "unit": "output tokens/s",
        **{key: top[key] for key in ("ours", "theirs", "plain", "ratio", "ratio_plain")},
        "spread": spread | {"rounds": len(next(iter(found.values())))},
        "by_concurrency": by_concurrency,
    }


def _ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    return [one / other for one, other in zip(ours, theirs, strict=True)]


def median_interval(values: Sequence[float], draws: int = 10_000) -> tuple[float, float]:
    """95 % bootstrap interval of the median, with a fixed seed."""
    chance = random.Random(0)
    medians = sorted(statistics.median(chance.choices(values, k=len(values))) for _ in range(draws))
    return round(medians[int(0.025 * draws)], 3), round(medians[int(0.975 * draws)], 3)


if __name__ == "__main__":
    main()
