"""`attune serve` on the engine without a model: `python -m tests.faults.memory_server CONFIG SECONDS_PER_WORD`.

Everything but the engine is the product's: composition root, log, key store, registry, signals.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from server.engine.memory import InMemoryEngine
from server.engine.port import Engine
from server.engine.settings import EngineSettings
from server.main import run_server
from server.settings import load_settings


def main() -> int:
    config, pace = Path(sys.argv[1]), float(sys.argv[2])

    @asynccontextmanager
    async def without_a_model(settings: EngineSettings) -> AsyncIterator[Engine]:
        yield InMemoryEngine(settings.base_names, seconds_per_step=pace)

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname).1s %(name)s %(message)s")
    logging.getLogger("kafka").setLevel(logging.WARNING)
    return run_server(load_settings(config), without_a_model)


if __name__ == "__main__":
    sys.exit(main())
