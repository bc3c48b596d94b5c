"""`make faults`: run scenes one after the other, print what each found, and write docs/faults.md."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
import traceback
from datetime import UTC, datetime
from pathlib import Path

from deploy.demo.processes import ended_in_order
from tests.faults.document import updated
from tests.faults.outcome import HEADINGS, Outcome
from tests.faults.suite import SCENES, Scene

PAGE = Path("docs/faults.md")


def main() -> int:
    """Returns 0 where every scene passed, 1 where one failed, 2 where none was meant."""
    parser = argparse.ArgumentParser(prog="make faults", description=__doc__)
    parser.add_argument("--only", metavar="WORDS", help="a group (crash, broker) or words of a scene's name")
    parser.add_argument("--quick", action="store_true", help="shorter forms; docs/faults.md stays as it is")
    parser.add_argument("--list", action="store_true", help="show the scenes and run none")
    chosen = parser.parse_args()
    scenes = [scene for scene in SCENES if chosen.only is None or scene.matches(chosen.only)]
    if chosen.list or not scenes:
        print("\n".join(f"{scene.group:8}{scene.name}" for scene in SCENES))
        return 0 if chosen.list else 2
    passed = True
    for scene in scenes:
        with ended_in_order():
            outcome = _run(scene, quick=chosen.quick)
        passed = passed and not outcome.faults
        cells = (*outcome.cells(), datetime.now(UTC).strftime("%Y-%m-%d"))
        print("\n".join(f"  {name}: {cell}" for name, cell in zip(HEADINGS[1:], cells, strict=True)), flush=True)
        if not chosen.quick:
            page = PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""
            PAGE.write_text(updated(page, [one.name for one in SCENES], {scene.name: cells}), encoding="utf-8")
    return 0 if passed else 1


def _run(scene: Scene, *, quick: bool) -> Outcome:
    """Run a scene in a folder of its own, which stays if it failed."""
    folder = Path(tempfile.mkdtemp(prefix="attune-faults-"))
    print(f"{scene.name} ...", flush=True)
    began = time.monotonic()
    try:
        outcome = (scene.quick if quick else scene.full)(folder)
    except Exception as error:
        traceback.print_exc()
        first = (str(error).splitlines() or [""])[0]
        outcome = Outcome(faults=(f"{type(error).__name__}: {first}",))
    print(f"{scene.name}: {'failed' if outcome.faults else 'passed'} in {time.monotonic() - began:.0f} s", flush=True)
    if outcome.faults:
        print(f"  its files are in {folder}", flush=True)
    else:
        shutil.rmtree(folder, ignore_errors=True)
    return outcome


if __name__ == "__main__":
    sys.exit(main())
