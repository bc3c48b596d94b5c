"""Starts vLLM inside this process and joins its parts into one `Engine`.

Knows how `vllm serve` puts engine and OpenAI app together, and does the same with the recorder between the two. Knows
nothing of policies, HTTP clients or events.
"""

from __future__ import annotations

import os
import time
from argparse import Namespace
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, NoReturn

from fastapi import FastAPI
from starlette.types import ASGIApp
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.entrypoints.launchers.api_server.app_state import init_app_state
from vllm.entrypoints.launchers.app import build_app
from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
from vllm.platforms import current_platform
from vllm.reasoning import ReasoningParserManager
from vllm.tool_parsers import ToolParserManager
from vllm.usage.usage_lib import UsageContext
from vllm.utils.argparse_utils import FlexibleArgumentParser
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.metrics.loggers import StatLoggerBase

from exchange.fingerprint import base_fingerprint, chat_template_hash, local_model_folder, template_hash
from server.engine.adapters import AdapterSlots
from server.engine.errors import EngineSettingsError
from server.engine.inflight import InFlight
from server.engine.outputs import take_sampled
from server.engine.port import Engine, Sink
from server.engine.routes import harden
from server.engine.seam import RecordingEngine
from server.engine.settings import EngineSettings, vllm_flags
from server.files.base_layers import BaseLayers, base_layers

SHUTDOWN_SECONDS = 15
"""vLLM's processes get at least this long to end by themselves; its own default kills them at once."""


class _Parser(FlexibleArgumentParser):  # type: ignore[misc]  # vLLM is untyped to us
    def error(self, message: str) -> NoReturn:
        raise EngineSettingsError(f"vLLM refuses its flags: {message}", field="engine.vllm_args")


def parse_flags(settings: EngineSettings) -> Namespace:
    """vLLM's own parse of the settings. Raises EngineSettingsError where Attune or vLLM refuses a flag."""
    args: Namespace = make_arg_parser(_Parser()).parse_args(vllm_flags(settings))
    try:
        validate_parsed_serve_args(args)
    except (TypeError, ValueError) as error:
        raise EngineSettingsError(f"vLLM refuses its flags: {error}", field="engine.vllm_args") from error
    return args


CPU_KV_CACHE_BYTES = 2 * 2**30
"""vLLM would reserve 92 % of the main memory and refuse to start where that is not free; a CPU has other work too.
VLLM_CPU_KVCACHE_SPACE in the environment still wins."""
_MEMORY_FLAGS = frozenset({"gpu_memory_utilization", "kv_cache_memory_bytes"})


class _Progress(StatLoggerBase):  # type: ignore[misc]  # vLLM is untyped to us
    """Remembers when the engine last made a token, streamed or not."""

    def __init__(self, vllm_config: Any = None, engine_index: int = 0) -> None:
        self.last = time.monotonic()

    def __call__(self, vllm_config: Any, engine_index: int) -> _Progress:
        """vLLM asks for a factory of loggers; this one logger serves every engine index."""
        return self

    def record(
        self, scheduler_stats: Any, iteration_stats: Any, mm_cache_stats: Any = None, engine_idx: int = 0
    ) -> None:
        if iteration_stats is not None and iteration_stats.num_generation_tokens:
            self.last = time.monotonic()

    def log_engine_initialized(self) -> None:
        self.last = time.monotonic()


class VllmEngine:
    """The `Engine` port on vLLM. Made by `open_engine`."""

    def __init__(
        self,
        app: FastAPI,
        recorder: RecordingEngine,
        slots: AdapterSlots,
        in_flight: InFlight,
        progress: _Progress,
        base_names: tuple[str, ...],
        base_fingerprint: str,
        chat_template_hash: str,
        base_layers: BaseLayers,
        *,
        takes_sampled: bool,
    ) -> None:
        self.takes_sampled = takes_sampled
        """Whether logprobs are taken off the engine core's outputs (`server.engine.outputs`)."""
        self._app = app
        self._recorder = recorder
        self._slots = slots
        self._in_flight = in_flight
        self._progress = progress
        self._base_names = base_names
        self._base_fingerprint = base_fingerprint
        self._chat_template_hash = chat_template_hash
        self._base_layers = base_layers

    @property
    def app(self) -> ASGIApp:
        return self._app

    @property
    def client(self) -> Any:
        """vLLM's own engine client, with the recorder in front of it."""
        return self._recorder

    @property
    def base_names(self) -> tuple[str, ...]:
        return self._base_names

    @property
    def base_fingerprint(self) -> str:
        return self._base_fingerprint

    @property
    def chat_template_hash(self) -> str:
        return self._chat_template_hash

    @property
    def base_layers(self) -> BaseLayers:
        return self._base_layers

    @property
    def dtype(self) -> str:
        return str(self._recorder.model_config.dtype).removeprefix("torch.")

    @property
    def max_model_len(self) -> int:
        return int(self._recorder.model_config.max_model_len)

    @property
    def errored(self) -> bool:
        return bool(self._recorder.errored)

    def progress_age_s(self) -> float:
        return time.monotonic() - self._progress.last

    def set_sink(self, sink: Sink) -> None:
        self._recorder.sink = sink

    async def load_adapter(self, name: str, path: Path) -> None:
        await self._slots.load(name, path)

    async def probe(self, name: str) -> str:
        return await self._slots.probe(name)

    async def score(self, name: str, prompt_ids: list[int], answer_ids: list[int]) -> list[float]:
        return await self._slots.score(name, prompt_ids, answer_ids)

    def hold(self, name: str) -> AbstractContextManager[None]:
        return self._in_flight.hold(name)

    def in_flight(self, name: str) -> int:
        return self._in_flight.count(name)

    async def drain(self, name: str) -> None:
        await self._in_flight.drain(name)

    async def unload_adapter(self, name: str) -> None:
        await self._slots.unload(name)

    def loaded(self) -> list[str]:
        return self._slots.loaded()


@asynccontextmanager
async def open_engine(settings: EngineSettings) -> AsyncIterator[Engine]:
    """Start vLLM (this blocks the event loop until it is ready, tens of seconds) and stop it when the context ends.

    vLLM spawns processes that import the main module again, so a program that calls this keeps its start behind
    `if __name__ == "__main__"`. Raises EngineSettingsError for settings that cannot work, and whatever vLLM raises
    while it starts.
    """
    if not settings.usage_stats:
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    if os.environ.get("VLLM_ALLOW_RUNTIME_LORA_UPDATING", "0") not in ("", "0", "false", "False"):
        raise EngineSettingsError(
            "VLLM_ALLOW_RUNTIME_LORA_UPDATING lets any client load adapters by name", remedy="Unset it."
        )
    args = parse_flags(settings)
    if current_platform.is_cpu() and not {name.replace("-", "_") for name in settings.vllm_args} & _MEMORY_FLAGS:
        args.kv_cache_memory_bytes = CPU_KV_CACHE_BYTES
    for plugin, manager in (
        (args.tool_parser_plugin, ToolParserManager.import_tool_parser),
        (args.reasoning_parser_plugin, ReasoningParserManager.import_reasoning_parser),
    ):
        if plugin:
            manager(plugin)
    folder = local_model_folder(settings.model)
    progress = _Progress()
    engine_args = AsyncEngineArgs.from_cli_args(args)
    config = engine_args.create_engine_config(usage_context=UsageContext.OPENAI_API_SERVER)
    # Without it, vLLM's sampler compiles two helpers at the first request in spite of enforce_eager: 30 s on a CPU.
    eager = {"TORCHDYNAMO_DISABLE": "1"} if config.model_config.enforce_eager else {}
    with _environment(eager):
        client = AsyncLLM.from_vllm_config(
            config,
            usage_context=UsageContext.OPENAI_API_SERVER,
            stat_loggers=[progress],
            enable_log_requests=engine_args.enable_log_requests,
            aggregate_engine_logging=engine_args.aggregate_engine_logging,
            disable_log_stats=engine_args.disable_log_stats,
        )
    try:
        await client.reset_mm_cache()
        await client.collective_rpc("run_head_without_adapters")
        await client.collective_rpc("end_with_server", args=(os.getpid(),))
        in_flight = InFlight()
        recorder = RecordingEngine(client, in_flight, settings.base_names[0])
        tasks = await client.get_supported_tasks()
        app = build_app(args, tasks, client.model_config)
        await init_app_state(recorder, app.state, args, tasks)
        capacity = config.lora_config.max_cpu_loras or settings.max_loras
        registry = app.state.openai_serving_models.lora_requests
        slots = AdapterSlots(client, registry, in_flight, settings.base_names, capacity)
        harden(app)
        template = args.chat_template
        engine = VllmEngine(
            app,
            recorder,
            slots,
            in_flight,
            progress,
            settings.base_names,
            base_fingerprint(folder),
            chat_template_hash(folder) if template is None else template_hash(_template_text(template)),
            base_layers(folder),
            takes_sampled=await take_sampled(client),
        )
        await slots.warm_up()
        async with app.router.lifespan_context(app):
            yield engine
    finally:
        client.shutdown(timeout=max(config.shutdown_timeout, SHUTDOWN_SECONDS))


@contextmanager
def _environment(defaults: dict[str, str]) -> Iterator[None]:
    """Environment variables for processes started meanwhile; what is set already stays as it is."""
    added = {name: value for name, value in defaults.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]


def _template_text(template: str) -> str:
    """vLLM's --chat-template is a file or the template itself."""
    path = Path(template)
    return path.read_text(encoding="utf-8") if "\n" not in template and path.is_file() else template
