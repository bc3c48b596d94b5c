"""`make kafka`: one broker for a developer, until Ctrl-C. `python -m deploy.brokers FOLDER [PORT]`."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path

from deploy.brokers.broker import Broker, start_broker
from deploy.needs import require
from schemas.errors import AttuneError

PORT = 9092
_LOOK_S = 0.2


def main(folder: Path, port: int) -> int:
    """Run a broker that keeps its data in `folder`; returns 0 after Ctrl-C or SIGTERM, 1 where it died by itself."""
    require("java", "maven")
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        print(f"attune: starting Kafka in {folder} ...", file=sys.stderr, flush=True)
        with start_broker(folder, port) as broker:
            print(words(broker), flush=True)
            while broker.running:
                time.sleep(_LOOK_S)
            print(f"attune: the broker ended by itself; see {broker.output}", file=sys.stderr)
            return 1
    except KeyboardInterrupt:
        print("attune: Kafka is stopped; its data stays", file=sys.stderr)
        return 0
    finally:
        signal.signal(signal.SIGTERM, before)


def words(broker: Broker) -> str:
    """How to use it."""
    return f"""\
Kafka is up at {broker.bootstrap}. In server.toml, under [server], and at the top of trainer.toml:

    log = "kafka://{broker.bootstrap}"

or start anew with it:

    .venv/bin/attune init home --log kafka://{broker.bootstrap}

Topics are made when they are first used. Ctrl-C stops the broker; the same command goes on with the same data."""


if __name__ == "__main__":
    try:
        sys.exit(main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else PORT))
    except AttuneError as error:
        sys.exit(f"attune: {error}")
