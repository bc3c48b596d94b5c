"""Programs for the tests of the suite's own care: `python -m tests.faults.sample_victim sleep|family|end CODE`."""

from __future__ import annotations

import subprocess
import sys
import time


def main() -> int:
    match sys.argv[1]:
        case "end":
            return int(sys.argv[2])
        case "family":
            print(subprocess.Popen([sys.executable, "-m", "tests.faults.sample_victim", "sleep"]).pid, flush=True)
    time.sleep(600)
    return 0


if __name__ == "__main__":
    sys.exit(main())
