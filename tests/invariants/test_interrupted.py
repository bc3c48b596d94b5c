"""A learner killed with SIGKILL at random points ends with the adapter of one that was left alone, in any process."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

from tests.invariants.worlds import make_world

METHODS = ("ppo", "kto")


def test_killed_and_resumed_equals_uninterrupted_in_another_process(tmp_path: Path) -> None:
    """The two processes differ in how Python hashes, too: no order of a set or dict of hashes may matter."""
    model = make_world(tmp_path / "world")
    points = random.Random(5)
    # Calls 1 to 6 are before the policy's first step; step 2 leaves a checkpoint, and 3 steps at least are left then.
    killed_at = {method: [points.randint(9, 10), points.randint(1, 3)] for method in METHODS}
    killed = [f"{method}:{','.join(map(str, calls))}" for method, calls in killed_at.items()]
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.invariants.interrupted", str(model), str(tmp_path / seed), *runs],
            env=os.environ | {"PYTHONHASHSEED": seed},
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed, runs in (("1", METHODS), ("2", killed))
    ]
    whole, lives = ([json.loads(line) for line in process.communicate()[0].splitlines()] for process in processes)
    assert [process.returncode for process in processes] == [0, 0]
    assert [(life["method"], life["status"]) for life in whole] == [(method, 0) for method in METHODS]
    for expected in whole:
        own = [life for life in lives if life["method"] == expected["method"]]
        assert [life["status"] for life in own] == [-signal.SIGKILL] * 2 + [0]
        assert own[0]["checkpoints"], "it was killed in the midst of the policy's steps"
        assert [life["digest"] for life in own] == [None] * 2 + [expected["digest"]]
    assert len({life["digest"] for life in whole}) == len(METHODS)
