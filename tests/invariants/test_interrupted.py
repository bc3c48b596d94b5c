"""A learner killed with SIGKILL at random points ends with the adapter of one that was left alone, in any process."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

from tests.invariants.interrupted import live, made_data
from tests.invariants.worlds import make_world
from trainer.models.files import folder_digest

METHODS = ("ppo", "kto")


def test_killed_and_resumed_equals_uninterrupted_in_another_process(tmp_path: Path) -> None:
    """The two processes differ in how Python hashes, too: no order of a set or dict of hashes may matter."""
    model = make_world(tmp_path / "world")
    points = random.Random(5)
    # Calls 1 to 6 are before the policy's first step; step 2 leaves a checkpoint, and 3 steps at least are left then.
    killed_at = {method: [points.randint(9, 10), points.randint(1, 3)] for method in METHODS}
    runs = [f"{method}:{','.join(map(str, calls))}" for method, calls in killed_at.items()]
    here = os.environ.get("PYTHONHASHSEED", "random")  # usually unset, so that this process has a seed of its own
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.invariants.interrupted", str(model), str(tmp_path / "killed"), *runs],
        env=os.environ | {"PYTHONHASHSEED": "2" if here == "1" else "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    whole = {}
    data = made_data(model)
    for method in METHODS:
        work = tmp_path / "whole" / method
        work.mkdir(parents=True)
        live(model, method, work, data, kill_at=None)
        whole[method] = folder_digest(work / "policy" / "adapter")
    lives = [json.loads(line) for line in process.communicate()[0].splitlines()]
    assert process.returncode == 0
    assert whole["ppo"] != whole["kto"]
    for method in METHODS:
        own = [life for life in lives if life["method"] == method]
        assert [life["status"] for life in own] == [-signal.SIGKILL] * 2 + [0]
        assert own[0]["checkpoints"], "it was killed in the midst of the policy's steps"
        assert [life["digest"] for life in own] == [None] * 2 + [whole[method]]
