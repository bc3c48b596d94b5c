"""Children are ended in order or by force, and an early death is told with the last words."""

import time
from pathlib import Path

import pytest

from deploy.demo.processes import start
from schemas.errors import Unavailable


def wait_for(path: Path, text: str) -> None:
    deadline = time.monotonic() + 20
    while text not in path.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_an_early_death_is_told_with_the_end_of_the_log(tmp_path: Path) -> None:
    with start("server", ["-c", "print('no such model'); raise SystemExit(7)"], tmp_path / "server.log") as child:
        child.process.wait(20)
        with pytest.raises(Unavailable, match=r"server ended early with code 7(?s:.*)no such model"):
            child.check()


def test_stop_asks_first(tmp_path: Path) -> None:
    code = (
        "import signal, sys, time; signal.signal(15, lambda *_: sys.exit(0)); print('up', flush=True); time.sleep(60)"
    )
    with start("server", ["-c", code], tmp_path / "s.log") as child:
        wait_for(child.log_file, "up")
        child.check()
        assert child.stop() == 0


def test_stop_kills_what_does_not_listen(tmp_path: Path) -> None:
    code = "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
    with start("trainer", ["-c", code], tmp_path / "t.log", {"ANY": "1"}) as child:
        wait_for(child.log_file, "up")
        assert child.stop(patience_s=0.2) == -9
        assert child.stop() == -9
