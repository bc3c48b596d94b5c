"""`attune train` that dies by `kill -9` at one exact moment of its own code: for moments too short to hit from outside.

`python -m tests.faults.doomed_trainer CONFIG MODULE:NAME before|after COUNT` makes one turn, and kills itself where
NAME is called, or returns, for the COUNTth time. It ends of itself only if that moment never came.
"""

from __future__ import annotations

import importlib
import itertools
import logging
import os
import signal
import sys
from pathlib import Path
from typing import Any

from trainer.main import run_trainer
from trainer.settings import load_settings


def die_at(place: str, when: str, count: int) -> None:
    """Make the COUNTth call of `MODULE:NAME` the last thing that this process does."""
    module, _, path = place.partition(":")
    owner: Any = importlib.import_module(module)
    *holders, name = path.split(".")
    for holder in holders:
        owner = getattr(owner, holder)
    living, calls = getattr(owner, name), itertools.count(1)

    def doomed(*args: Any, **kwargs: Any) -> Any:
        last = next(calls) == count
        if last and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = living(*args, **kwargs)
        if last:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, doomed)


def main() -> int:
    config, place, when, count = sys.argv[1:]
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname).1s %(name)s %(message)s")
    die_at(place, when, int(count))
    return run_trainer(load_settings(Path(config)), once=True)


if __name__ == "__main__":
    sys.exit(main())
