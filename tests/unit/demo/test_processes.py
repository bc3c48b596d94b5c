"""Children are ended in order or by force, and an early death is told with the last words."""

import signal
import subprocess
import sys
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


def test_stop_ends_what_the_child_leaves_behind(tmp_path: Path) -> None:
    code = (
        "import subprocess, sys; "
        "print(subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']).pid, flush=True)"
    )
    with start("server", ["-c", code], tmp_path / "s.log") as child:
        child.process.wait(20)
        left = int(child.log_file.read_text())
        assert runs(left)
    wait_until_over(left)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_terminated_demo_ends_its_children(tmp_path: Path, number: signal.Signals) -> None:
    code = """
import sys, time
from pathlib import Path
from deploy.demo.processes import ended_in_order, start
with ended_in_order(), start("server", ["-c", "import time; time.sleep(60)"], Path(sys.argv[1])) as child:
    print(child.process.pid, flush=True)
    time.sleep(60)
"""
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "s.log")], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as demo:
        assert demo.stdout is not None
        child = int(demo.stdout.readline())
        assert runs(child)
        demo.send_signal(number)
        assert demo.wait(20) != 0
    wait_until_over(child)


def runs(process: int) -> bool:
    """Whether that process exists and is no zombie that only waits to be collected."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until_over(process: int) -> None:
    deadline = time.monotonic() + 20
    while runs(process):
        assert time.monotonic() < deadline
        time.sleep(0.02)
